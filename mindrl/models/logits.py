"""Logits of a whole model on this process's host, by transformers or by Megatron-core, to hold one against the other."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

import hal
from mindrl.config.schema import Config
from mindrl.models.kernel_facts import kernel_facts
from mindrl.weight_maps import Architecture

JOIN_TIMEOUT_SECONDS = 60.0


def random_tokens(vocab_size: int, length: int, rows: int = 2, seed: int = 0) -> torch.Tensor:
    """Token ids [rows, length], the same for the same arguments."""
    return torch.randint(vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def transformers_logits(hf_dir: Path, tokens: torch.Tensor, rounded_to: torch.dtype) -> torch.Tensor:
    """[rows, length, vocab_size], computed in float32 by the model class that transformers itself has, from parameters
    that are rounded first."""
    model = AutoModelForCausalLM.from_pretrained(
        hf_dir, dtype=torch.float32, attn_implementation="eager", trust_remote_code=False
    )
    _round(model, rounded_to)
    return model.eval()(tokens).logits


@torch.no_grad()
def megatron_logits(
    arch: Architecture,
    load: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    tokens: torch.Tensor,
    rounded_to: torch.dtype,
) -> torch.Tensor:
    """[rows, length, vocab_size], computed in float32 by the model that is trained, from parameters rounded first.

    `load` fills the state that it is given, `{"model": sharded state}`, as `dist_checkpointing` does. Starts Megatron-core
    in a process group of one, and takes both down again."""
    from mindrl.models.megatron.layers import use_rotary_kernel
    from mindrl.models.megatron.model import build_model
    from mindrl.models.megatron.parallel import destroy_parallel, initialize_parallel
    from mindrl.models.megatron.transformer_config import build_transformer_config

    config = _config_of_one_process()
    accelerator = hal.choose("cpu")
    with _alone(accelerator):
        initialize_parallel(config, accelerator)
        try:
            selection = hal.select(accelerator, kernel_facts(config.actor, arch))
            use_rotary_kernel(selection)
            transformer = build_transformer_config(config.actor, arch, fused_rope=True)
            model = build_model(transformer, arch, selection, accelerator).eval()
            model.load_state_dict(load({"model": model.sharded_state_dict()})["model"])
            _round(model, rounded_to)
            hidden = model(tokens, None, None)
            return linear(hidden, model.output_weight())[..., : arch.vocab_size].transpose(0, 1)
        finally:
            destroy_parallel()


def _round(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """To what a conversion to this type makes of parameters; buffers, such as a router's bias, keep their values."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))


def _config_of_one_process() -> Config:
    """The smallest configuration of a run; of it, only what decides how the model is built is used."""
    return Config.model_validate(
        {
            "cluster": {"devices_per_node": 1},
            "model": {"path": "."},
            "data": {"train": [{"path": "none.parquet"}], "max_prompt_length": 1, "max_response_length": 1},
            "actor": {"micro_batch_size": 1, "mini_batch_size": 1, "optimizer": {"lr": 0.0}},
            "rollout": {"n_samples": 2},
            "reward": {"functions": [{"name": "none"}]},
            "trainer": {"global_batch_size": 1, "total_steps": 1, "output_dir": "none"},
        }
    )


@contextmanager
def _alone(accelerator: hal.Accelerator) -> Iterator[None]:
    """A process group of one."""
    with tempfile.TemporaryDirectory(prefix="mindrl-logits-") as meeting_place:
        hal.communication.initialize(
            accelerator,
            rank=0,
            world_size=1,
            init_method=f"file://{meeting_place}/group",
            timeout_seconds=JOIN_TIMEOUT_SECONDS,
        )
        try:
            yield
        finally:
            hal.communication.destroy()
