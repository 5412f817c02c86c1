"""The driver of a run. Start with `grpo.py`: its `fit` is the algorithm, the other files are its collaborators."""
