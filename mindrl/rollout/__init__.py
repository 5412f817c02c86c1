"""Rollout engines: requests in, samples out, weights replaced in place; vLLM and transformers."""
