"""Weights at rest: `convert` between Hugging Face and Megatron without a model, `training` through Megatron itself.

Conversion, from the plan to the copy: `hf_to_mcore` and `mcore_to_hf` plan, `byte_plan` checks, `copying` carries out;
`safetensors_files`, `torch_dist` and `torch_zip` know the formats, `directories` where things lie.
"""
