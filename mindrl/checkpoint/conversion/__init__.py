"""Conversion without a model, from the plan to the copy: `hf_to_mcore` and `mcore_to_hf` plan every byte range,
`copying` carries out, `convert` is what a user asks for."""
