"""Checkpoints between converter and training backend, in every layout, through Megatron's own loader."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import assert_same_bits
from megatron.core import dist_checkpointing
from transformers import AutoModelForCausalLM

import hal
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.directories import latest_iteration
from mindrl.checkpoint.training import load_checkpoint, save_checkpoint
from mindrl.data.records import FloatArray, Sample
from mindrl.errors import RequestError
from mindrl.models.kernel_facts import kernel_facts
from mindrl.models.megatron.backend import MegatronBackend
from mindrl.weight_maps import read_architecture
from tests.distributed import run_distributed
from tests.models.tiny_models import FAMILIES, make_config, make_samples, save_tiny_model

LAYOUTS = {"one": (1, 1), "tp2": (2, 1), "pp2": (1, 2)}


def build_backend(model: Path, layout: tuple[int, int]) -> MegatronBackend:
    tensor, pipeline = layout
    torch.use_deterministic_algorithms(True)
    config = make_config(model, tensor * pipeline, tensor=tensor, pipeline=pipeline, temperature=1.0)
    accelerator = hal.choose("cpu")
    architecture = read_architecture(model)
    selection = hal.select(accelerator, kernel_facts(config.actor, architecture))
    return MegatronBackend(config, architecture, accelerator, selection, trainable=False)


def log_probs_of_checkpoint(model: Path, checkpoint: Path, layout: tuple[int, int]) -> list[FloatArray]:
    backend = build_backend(model, layout)
    backend.load_state(load_checkpoint(checkpoint, backend.state()))
    return backend.log_probs(make_samples(4))


@dataclass(frozen=True)
class Visit:
    """What one rank saw of the converted checkpoint of one family."""

    log_probs: list[FloatArray]
    refusal: str
    """Of a tensor that the checkpoint does not hold."""
    failure: str
    """Of a save to where nothing can be written."""


def visit_every_family(folder: Path, layout: tuple[int, int]) -> dict[str, Visit]:
    return {family: visit(folder / family, layout) for family in FAMILIES}


def visit(folder: Path, layout: tuple[int, int]) -> Visit:
    """Load as Megatron does by default, evaluate, and save again."""
    backend = build_backend(folder / "hf", layout)
    backend.load_state(dist_checkpointing.load(backend.state(), str(folder / "mcore" / "release")))
    save_checkpoint(folder / f"saved-{layout}", 10, backend.state(), folder / "hf")
    state = backend.state()
    next(iter(state["model"].values())).key = "decoder.nowhere"
    with pytest.raises(RequestError) as refusal:
        load_checkpoint(folder / "mcore", state)
    with pytest.raises(OSError) as failure:
        save_checkpoint(folder / "hf" / "config.json", 1, backend.state(), folder / "hf")
    return Visit(backend.log_probs(make_samples(4)), str(refusal.value), str(failure.value))


def log_probs_of_transformers(model: Path, samples: list[Sample]) -> list[FloatArray]:
    policy = AutoModelForCausalLM.from_pretrained(model)
    result = []
    for sample in samples:
        ids = torch.tensor(np.concatenate([sample.prompt_ids, sample.response_ids]), dtype=torch.long)
        with torch.no_grad():
            every = policy(ids[None]).logits[0, :-1].log_softmax(-1)
        chosen = every.gather(-1, ids[1:, None])[:, 0]
        result.append(chosen[len(sample.prompt_ids) - 1 :].numpy())
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of every family, and its converted checkpoint."""
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        model = save_tiny_model(folder / family / "hf", family)
        convert_hf_to_mcore(model, folder / family / "mcore", progress=False, tensor_parallel_size=2)
    return folder


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(scope="module")
def visits(folder: Path, layout: tuple[int, int]) -> list[dict[str, Visit]]:
    """Every rank's, in this layout."""
    return run_distributed(visit_every_family, layout[0] * layout[1], folder, layout, timeout=240)


families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_converted_weights_give_transformers_log_probs_in_every_layout(folder, visits, family):
    expected = log_probs_of_transformers(folder / family / "hf", make_samples(4))
    for rank in visits:
        for ours, theirs in zip(rank[family].log_probs, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@families
def test_a_checkpoint_saved_by_training_converts_back_to_the_same_bits(
    folder, visits, layout, family, tmp_path
):
    saved = folder / family / f"saved-{layout}"
    assert sorted(path.name for path in saved.iterdir()) == [
        "hf",
        "iter_0000010",
        "latest_checkpointed_iteration.txt",
    ]
    assert latest_iteration(saved) == (saved / "iter_0000010", 10)
    convert_mcore_to_hf(saved, tmp_path / "back", progress=False)
    assert_same_bits(tmp_path / "back", folder / family / "hf")


def test_asking_for_what_a_checkpoint_does_not_hold_names_it_on_every_rank(visits):
    for rank in visits:
        assert all("decoder.nowhere" in visit.refusal for visit in rank.values())


def test_a_save_that_cannot_be_written_fails_on_every_rank(visits):
    for rank in visits:
        assert all("config.json" in visit.failure for visit in rank.values())
