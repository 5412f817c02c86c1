"""mindrl: GRPO post-training of language models on any accelerator that `hal` knows."""

__version__ = "0.1.0"
