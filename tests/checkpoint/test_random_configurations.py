"""Models of any size, whatever the pieces, parts and files: every bit there and back, and what lies in between is what
the layers' definitions say, read by torch's own loader."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from mindrl.checkpoint.conversion import copying, hf_to_mcore
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from tests.checkpoint.hf_models import FAMILIES, Tensors, assert_same_bits, bits, tensors_of, write_model
from tests.checkpoint.megatron_tensors import megatron_tensors

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@st.composite
def models(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A family, and what `write_model` takes besides."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    number = lambda least, most: draw(st.integers(least, most))  # noqa: E731
    groups, layers = number(1, 4), number(1, 3)
    heads = groups * number(1, 3)
    sizes: dict[str, Any] = {
        "vocab_size": number(3, 70),
        # transformers refuses what is no multiple of the heads, and writes experts without dimensions of size 1
        "hidden_size": max(2, heads * number(1, 7)),
        "intermediate_size": number(1, 37),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "tied": draw(st.booleans()),
        "dtype": draw(st.sampled_from(DTYPES)),
        "max_shard_size": draw(st.sampled_from(["1KB", "7KB", "5GB"])),
    }
    if family not in ("deepseek_v3", "moonlight"):
        sizes["head_dim"] = 2 * number(1, 9)
    else:
        sizes |= {
            "num_key_value_heads": heads,
            "kv_lora_rank": number(1, 11),
            "qk_nope_head_dim": number(1, 9),
            "qk_rope_head_dim": 2 * number(1, 5),
            "v_head_dim": number(1, 9),
            "n_routed_experts": number(1, 5),
            "num_experts_per_tok": 1,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": number(1, 2),
            "moe_intermediate_size": number(2, 13),
            "first_k_dense_replace": number(0, layers),
            "router_bias_dtype": draw(st.sampled_from([None, torch.float32])),
        }
    if family == "deepseek_v3":
        sizes["q_lora_rank"] = number(1, 11)
    if family == "qwen3_moe":
        sizes |= {
            "num_experts": number(1, 5),
            "num_experts_per_tok": 1,
            "moe_intermediate_size": number(2, 13),
            "mlp_only_layers": sorted(draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))),
        }
    return family, sizes


limits = st.fixed_dictionaries(
    {
        "piece": st.sampled_from([1, 50, 999, 8 << 20]),
        "part": st.sampled_from([1, 64, 700, 512 << 20]),
        "file": st.sampled_from([1, 900, 5000, 4 << 30]),
        "hf_file": st.sampled_from([1, 900, 5000, 5 * 10**9]),
        "tensor_parallel_size": st.sampled_from([None, 1, 2, 3, 4, 8]),
    }
)
"""Bytes; far below a tensor's size, and the true ones."""


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(model=models(), limits=limits)
def test_any_model_goes_there_and_back_bit_for_bit_by_way_of_what_the_definitions_say(
    model: tuple[str, dict[str, Any]], limits: dict[str, Any]
):
    check(model, limits)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(model=models(), limits=limits)
def test_many_more_models_go_there_and_back(model: tuple[str, dict[str, Any]], limits: dict[str, Any]):
    check(model, limits)


def check(model: tuple[str, dict[str, Any]], limits: dict[str, Any]) -> None:
    family, sizes = model
    folder = Path(tempfile.mkdtemp())
    try:
        hf = write_model(folder / "hf", family, **sizes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copying, "PIECE_BYTES", limits["piece"])
            patch.setattr(hf_to_mcore, "LARGEST_PART_BYTES", limits["part"])
            patch.setattr(hf_to_mcore, "LARGEST_FILE_BYTES", limits["file"])
            convert_hf_to_mcore(
                hf, folder / "mcore", tensor_parallel_size=limits["tensor_parallel_size"], progress=False
            )
            convert_mcore_to_hf(
                folder / "mcore", folder / "back", max_file_bytes=limits["hf_file"], progress=False
            )
        assert_same_bits(folder / "back", hf)
        config = json.loads((hf / "config.json").read_text())
        assert_same_tensors(read_by_torch(folder / "mcore/release"), megatron_tensors(tensors_of(hf), config))
    finally:
        shutil.rmtree(folder)


def read_by_torch(checkpoint: Path) -> Tensors:
    """Every tensor whole, by torch.distributed.checkpoint."""
    reader = dcp.FileSystemReader(checkpoint)
    stored = reader.read_metadata().state_dict_metadata
    tensors = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def assert_same_tensors(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (expected[key].dtype, expected[key].shape), key
        assert torch.equal(bits(tensor), bits(expected[key])), key
