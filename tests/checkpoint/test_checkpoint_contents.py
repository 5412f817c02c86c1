"""What a run's checkpoints hold: optimizer state and generators, bit for bit, loadable in another layout."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import assert_same_bits
from megatron.core import parallel_state
from test_training_checkpoints import log_probs_of_checkpoint

import hal
from mindrl.algorithms.objective import PolicyObjective
from mindrl.checkpoint.conversion.convert import convert_mcore_to_hf
from mindrl.checkpoint.formats.torch_archives import locate_tensor
from mindrl.checkpoint.formats.torch_dist import read_directory
from mindrl.checkpoint.training import load_checkpoint, save_checkpoint
from mindrl.errors import RequestError
from mindrl.models.backend import MiniBatch, Part
from mindrl.models.kernel_facts import kernel_facts
from mindrl.models.megatron import MegatronBackend
from mindrl.models.megatron.optimizer_state import rectangles
from mindrl.weight_maps import read_architecture
from tests.distributed import run_distributed
from tests.models.tiny_models import make_config, make_mini_batch, make_samples, save_tiny_model

PARTS: tuple[Part, ...] = ("model", "optimizer", "random")
LAYOUTS = {"DP2": {}, "TP2": {"tensor": 2}, "PP2": {"pipeline": 2}}


def make_backend(
    model: Path, layout: str = "DP2", dtype: str = "float32", dropout: float = 0.0
) -> MegatronBackend:
    torch.use_deterministic_algorithms(True)
    pass_through = {"hidden_dropout": dropout} if dropout else None
    config = make_config(model, 2, **LAYOUTS[layout], transformer_config=pass_through)
    config = config.model_copy(update={"actor": config.actor.model_copy(update={"dtype": dtype})})
    accelerator, architecture = hal.choose("cpu"), read_architecture(model)
    selection = hal.select(accelerator, kernel_facts(config.actor, architecture))
    objective = PolicyObjective.from_config(config.algorithm)
    return MegatronBackend(config, architecture, accelerator, selection, objective)


def share_of_mini_batch(number: int) -> MiniBatch:
    """Data-parallel ranks take halves; ranks that share a model copy the same samples."""
    rank, size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    return make_mini_batch(make_samples(8, seed=number), slice(rank * 8 // size, (rank + 1) * 8 // size))


def take_step(backend: MegatronBackend, number: int) -> float:
    backend.accumulate_gradients(share_of_mini_batch(number))
    return backend.apply_gradients(lr=0.01)


def weights_of(backend: MegatronBackend) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy().copy() for name, tensor in backend.named_tensors()}


@dataclass(frozen=True)
class Third:
    """A third step: its gradient norm and the weights after it."""

    grad_norm: float
    weights: dict[str, np.ndarray]


Saved = tuple[Path, list[tuple[Third, Third]]]
"""A checkpoint, and by rank the step after it: of the run that was saved, and of one that was loaded."""


def save_after_two_steps(
    model: Path, checkpoint: Path, layout: str, dtype: str, dropout: float
) -> tuple[Third, Third]:
    """The third step of the run that was saved, and of one that was loaded from there."""
    backend = make_backend(model, layout, dtype, dropout)
    backend.load_hf(model)
    for number in (0, 1):
        take_step(backend, number)
    save_checkpoint(checkpoint, 2, backend.state(PARTS) | {"progress": {"rows": [{"step": 1}]}}, model)
    saved = Third(take_step(backend, 2), weights_of(backend))

    backend = make_backend(model, layout, dtype, dropout)
    state = load_checkpoint(checkpoint, backend.state(PARTS, for_loading=True) | {"progress": None})
    assert state.pop("progress") == {"rows": [{"step": 1}]}
    backend.load_state(state)
    return saved, Third(take_step(backend, 2), weights_of(backend))


def third_step_in_another_layout(model: Path, checkpoint: Path, layout: str) -> Third:
    backend = make_backend(model, layout)
    wanted = backend.state(("model", "optimizer"), for_loading=True)
    backend.load_state(load_checkpoint(checkpoint, wanted))
    return Third(take_step(backend, 2), weights_of(backend))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("contents"), "qwen2-tied")


@pytest.fixture(scope="module")
def data_parallel(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A checkpoint of two data-parallel ranks, and the step after it."""
    checkpoint = tmp_path_factory.mktemp("saved") / "run"
    return checkpoint, run_distributed(save_after_two_steps, 2, model, checkpoint, "DP2", "float32", 0.0)


def assert_continued_exactly(ranks: list[tuple[Third, Third]]) -> None:
    for saved, loaded in ranks:
        assert loaded.grad_norm == saved.grad_norm
        assert all(np.array_equal(loaded.weights[name], saved.weights[name]) for name in saved.weights)


def test_two_data_parallel_ranks_continue_bit_for_bit(data_parallel: Saved):
    _, ranks = data_parallel
    assert_continued_exactly(ranks)


@pytest.mark.parametrize(
    ("layout", "dtype"), [("TP2", "float32"), ("PP2", "float32"), ("PP2", "bfloat16"), ("DP2", "bfloat16")]
)
def test_dropout_and_float32_main_weights_continue_bit_for_bit(
    model: Path, tmp_path: Path, layout: str, dtype: str
):
    ranks = run_distributed(save_after_two_steps, 2, model, tmp_path / "run", layout, dtype, 0.1)
    assert_continued_exactly(ranks)


@pytest.mark.parametrize("layout", ["TP2", "PP2"])
def test_optimizer_state_of_data_parallel_ranks_loads_into_ranks_that_share_a_model_copy(
    model: Path, data_parallel: Saved, layout: str
):
    checkpoint, [(expected, _), *_] = data_parallel
    for rank in run_distributed(third_step_in_another_layout, 2, model, checkpoint, layout):
        assert rank.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
        for name, weight in expected.weights.items():
            # A step of AdamW is some 0.01 wherever the moments were lost or mixed up.
            np.testing.assert_allclose(rank.weights[name], weight, rtol=0, atol=5e-5)


def test_conversion_leaves_optimizer_and_generators_out(model: Path, data_parallel: Saved, tmp_path: Path):
    checkpoint, _ = data_parallel
    run_distributed(save_weights_alone, 2, model, checkpoint, tmp_path / "weights")
    for source, target in ((checkpoint, "full"), (tmp_path / "weights", "bare")):
        convert_mcore_to_hf(source, tmp_path / target, progress=False)
    assert_same_bits(tmp_path / "full", tmp_path / "bare")
    assert (tmp_path / "full" / "model.safetensors").read_bytes() == (
        tmp_path / "bare" / "model.safetensors"
    ).read_bytes()


def save_weights_alone(model: Path, source: Path, target: Path) -> None:
    backend = make_backend(model)
    backend.load_state(load_checkpoint(source, backend.state()))
    save_checkpoint(target, 2, backend.state(), model)


def test_a_new_run_starts_from_the_weights_of_such_a_checkpoint(model: Path, data_parallel: Saved):
    checkpoint, _ = data_parallel
    [alone] = run_distributed(log_probs_of_checkpoint, 1, model, checkpoint, (1, 1))
    assert len(alone) == 4


def test_a_damaged_byte_is_found_by_every_rank(model: Path, data_parallel: Saved, tmp_path: Path):
    checkpoint = shutil.copytree(data_parallel[0], tmp_path / "run")
    saved = checkpoint / "iter_0000002"
    chunk = read_directory(saved)["decoder.final_layernorm.weight"].chunks[0]
    victim = saved / chunk.file
    with victim.open("r+b") as file:
        payload = locate_tensor(file, chunk.offset, chunk.length).offset
        file.seek(payload)
        byte = file.read(1)
        file.seek(payload)
        file.write(bytes([byte[0] ^ 1]))
    for message in run_distributed(refusal_of_damage, 2, model, checkpoint):
        assert victim.name in message
        assert "damaged" in message


def refusal_of_damage(model: Path, checkpoint: Path) -> str:
    backend = make_backend(model)
    with pytest.raises(RequestError) as refusal:
        load_checkpoint(checkpoint, backend.state())
    return str(refusal.value)


@pytest.mark.parametrize("shape", [(7,), (4, 3), (1, 5), (5, 1), (2, 3, 4)])
def test_spans_of_a_flattened_tensor_are_cut_into_rectangles_that_hold_them_in_order(shape: tuple[int, ...]):
    values = np.arange(np.prod(shape)).reshape(shape)
    for start in range(values.size + 1):
        for stop in range(start, values.size + 1):
            pieces = list(rectangles(shape, start, stop))
            parts = [values[tuple(map(slice, o, np.add(o, s)))].ravel() for o, s in pieces]
            assert np.concatenate([*parts, []]).tolist() == list(range(start, stop))
            assert len(pieces) <= 2 * len(shape) - 1
