"""Whether two sets of weights are the same, and whether one is as it was written.

The rows of both sides are read and rearranged by code of this room alone: neither the planners nor the copy loop of
`mindrl.checkpoint.conversion` take part, so that a mistake in them shows. Shared with them are the weight maps, which
are proven by logits, and the readers of headers in `mindrl.checkpoint.formats`.
"""
