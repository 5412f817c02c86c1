"""Weights at rest.

`conversion`      between Hugging Face and Megatron, without a model: what is asked for, planned, carried out
`saved_weights`   a Megatron checkpoint of any layout, seen through a model's weight map
`comparison`      whether two sets of weights are the same, or one is as it was written
`formats`         which bytes of which file are which tensor
`training`        saving and loading a backend's state, through Megatron itself

Shared: `byte_plan` says what is copied where, `plan_proof` proves it, `expected` whether files hold a model,
`companions` what goes with the weights, `tokenizer_check` whether their tokenizer loads, `directories` where things lie.
"""
