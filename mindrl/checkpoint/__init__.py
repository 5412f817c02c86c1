"""Weights at rest: `conversion` between Hugging Face and Megatron without a model, `training` through Megatron itself.

`formats` know the files, `byte_plan` says what is copied where and proves it, `expected` whether files hold a model,
`directories` where things lie.
"""
