"""Training backends: Megatron-core, and a small one on transformers that serves as oracle."""
