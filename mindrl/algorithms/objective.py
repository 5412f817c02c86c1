"""The loss of a micro-batch, put together from the policy loss, the KL penalty and the entropy bonus."""
