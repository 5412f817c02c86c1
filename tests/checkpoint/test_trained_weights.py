"""What training saved in one layout is, converted, what the engine got from it live, and loads in another layout."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.training import load_checkpoint, save_checkpoint
from mindrl.data.records import FloatArray
from mindrl.models.backend import Part
from mindrl.models.megatron import MegatronBackend
from tests.checkpoint.hf_models import Tensors, bits, tensors_of
from tests.distributed import run_distributed
from tests.models.megatron_setup import make_backend
from tests.models.tiny_models import make_config, make_mini_batch, make_samples, save_tiny_model

PARTS: tuple[Part, ...] = ("model", "optimizer", "random")


@dataclass(frozen=True)
class Layout:
    """Of training ranks."""

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1

    def __str__(self) -> str:
        return f"TP{self.tensor} PP{self.pipeline} EP{self.expert}"


TRAINED_AND_LOADED = [
    ("llama-untied", "float32", Layout(tensor=2), Layout(pipeline=2)),
    ("qwen2-tied", "bfloat16", Layout(pipeline=2), Layout(tensor=2)),
    ("qwen3-untied", "float32", Layout(), Layout(tensor=2)),
    ("qwen3_moe-tied", "float32", Layout(expert=2), Layout(tensor=2)),
    ("moonlight-untied", "bfloat16", Layout(tensor=2), Layout(expert=2)),
    ("deepseek_v3-untied", "float32", Layout(expert=2), Layout(pipeline=2)),
]
"""On two ranks each."""


def backend_in(layout: Layout, model: Path, dtype: str) -> tuple[MegatronBackend, slice]:
    """And this rank's share of eight samples."""
    config = make_config(model, 2, **asdict(layout), temperature=1.0)
    config = config.model_copy(update={"actor": config.actor.model_copy(update={"dtype": dtype})})
    backend, rank, size = make_backend(config)
    return backend, slice(rank * 8 // size, (rank + 1) * 8 // size)


def exported(backend: MegatronBackend) -> dict[str, np.ndarray]:
    """What an engine gets, as bytes."""
    return {name: bits(tensor).numpy().copy() for name, tensor in backend.named_tensors()}


def train_and_save(model: Path, mcore: Path, run: Path, layout: Layout, dtype: str) -> dict[str, np.ndarray]:
    """Two optimizer steps from converted weights."""
    backend, share = backend_in(layout, model, dtype)
    backend.load_state(load_checkpoint(mcore, backend.state()))
    for seed in (0, 1):
        backend.accumulate_gradients(make_mini_batch(make_samples(8, seed), share))
        backend.apply_gradients(lr=0.01)
    save_checkpoint(run, 2, backend.state(PARTS), model)
    return exported(backend)


def load_and_evaluate(
    model: Path, run: Path, layout: Layout, dtype: str
) -> tuple[dict[str, np.ndarray], list[FloatArray]]:
    """Weights as an engine gets them, and log-probs."""
    backend, _ = backend_in(layout, model, dtype)
    backend.load_state(load_checkpoint(run, backend.state()))
    return exported(backend), backend.log_probs(make_samples(8, 5))


def log_probs_of_transformers(model: Path) -> list[FloatArray]:
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    result: list[FloatArray] = []
    for sample in make_samples(8, 5):
        ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids])).long()
        with torch.no_grad():
            every = policy(ids[None]).logits[0, :-1].log_softmax(-1)
        result.append(every.gather(-1, ids[1:, None])[len(sample.prompt_ids) - 1 :, 0].numpy())
    return result


def assert_same(found: dict[str, np.ndarray], expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, bits(expected[name]).numpy(), err_msg=name)


@pytest.mark.parametrize(("family", "dtype", "trained", "loaded"), TRAINED_AND_LOADED, ids=str)
def test_a_converted_training_checkpoint_is_the_live_export_in_every_layout(
    tmp_path: Path, family: str, dtype: str, trained: Layout, loaded: Layout
):
    model, mcore, run = save_tiny_model(tmp_path / "hf", family), tmp_path / "mcore", tmp_path / "run"
    convert_hf_to_mcore(model, mcore, dtype=dtype, progress=False)
    live = run_distributed(train_and_save, 2, model, mcore, run, trained, dtype)

    convert_mcore_to_hf(run, tmp_path / "trained", progress=False)
    converted, before = tensors_of(tmp_path / "trained"), tensors_of(model)
    for rank in live:
        assert_same(rank, converted)
    assert not any(
        torch.equal(converted[name].float(), before[name]) for name in before if name.endswith("proj.weight")
    )

    for weights, log_probs in run_distributed(load_and_evaluate, 2, model, run, loaded, dtype):
        assert_same(weights, converted)
        if dtype == "float32":
            for ours, theirs in zip(log_probs, log_probs_of_transformers(tmp_path / "trained"), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
