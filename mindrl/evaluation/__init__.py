"""How good a model is: prompts answered by any rollout engine, scored by a reward, summed up per data source."""
