"""The processes that do the work: actor, reference, rollout and reward roles, and the Ray actors around them."""
