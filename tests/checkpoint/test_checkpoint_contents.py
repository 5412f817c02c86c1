"""What a run's checkpoints hold: optimizer state and generators, bit for bit, loadable in another layout."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_models import assert_same_bits
from test_training_checkpoints import LAYOUTS, log_probs_of_checkpoint

import hal
from mindrl.algorithms.objective import PolicyObjective
from mindrl.checkpoint.convert import convert_mcore_to_hf
from mindrl.checkpoint.torch_dist import read_directory
from mindrl.checkpoint.torch_zip import locate_tensor
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


def make_backend(model: Path, tensor: int, dtype: str = "float32", dropout: float = 0.0) -> MegatronBackend:
    torch.use_deterministic_algorithms(True)
    pass_through = {"hidden_dropout": dropout} if dropout else None
    config = make_config(model, 2, tensor=tensor, transformer_config=pass_through)
    config = config.model_copy(update={"actor": config.actor.model_copy(update={"dtype": dtype})})
    accelerator, architecture = hal.choose("cpu"), read_architecture(model)
    selection = hal.select(accelerator, kernel_facts(config.actor, architecture))
    objective = PolicyObjective.from_config(config.algorithm)
    return MegatronBackend(config, architecture, accelerator, selection, objective)


def share_of_mini_batch(number: int, tensor: int) -> MiniBatch:
    """Data-parallel ranks take halves; tensor-parallel ones the same samples."""
    rank = torch.distributed.get_rank()
    half = slice(rank * 4, rank * 4 + 4) if tensor == 1 else slice(None)
    return make_mini_batch(make_samples(8, seed=number), half)


def take_step(backend: MegatronBackend, number: int, tensor: int) -> float:
    backend.accumulate_gradients(share_of_mini_batch(number, tensor))
    return backend.apply_gradients(lr=0.01)


def weights_of(backend: MegatronBackend) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy().copy() for name, tensor in backend.named_tensors()}


@dataclass(frozen=True)
class Third:
    """A third step: its gradient norm and the weights after it."""

    grad_norm: float
    weights: dict[str, np.ndarray]


def save_after_two_steps(
    model: Path, checkpoint: Path, tensor: int, dtype: str, dropout: float
) -> tuple[Third, Third]:
    """The third step of the run that was saved, and of one that was loaded from there."""
    backend = make_backend(model, tensor, dtype, dropout)
    backend.load_hf(model)
    for number in (0, 1):
        take_step(backend, number, tensor)
    save_checkpoint(checkpoint, 2, backend.state(PARTS) | {"progress": {"rows": [{"step": 1}]}}, model)
    saved = Third(take_step(backend, 2, tensor), weights_of(backend))

    backend = make_backend(model, tensor, dtype, dropout)
    state = load_checkpoint(checkpoint, backend.state(PARTS, for_loading=True) | {"progress": None})
    assert state.pop("progress") == {"rows": [{"step": 1}]}
    backend.load_state(state)
    return saved, Third(take_step(backend, 2, tensor), weights_of(backend))


def third_step_in_another_layout(model: Path, checkpoint: Path, tensor: int) -> Third:
    backend = make_backend(model, tensor)
    wanted = backend.state(("model", "optimizer"), for_loading=True)
    backend.load_state(load_checkpoint(checkpoint, wanted))
    return Third(take_step(backend, 2, tensor), weights_of(backend))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("contents"), "qwen2-tied")


@pytest.fixture(scope="module")
def data_parallel(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Third]:
    """A checkpoint of two data-parallel ranks, and the step after it."""
    checkpoint = tmp_path_factory.mktemp("saved") / "run"
    ranks = run_distributed(save_after_two_steps, 2, model, checkpoint, 1, "float32", 0.0)
    return checkpoint, assert_continued_exactly(ranks)


def assert_continued_exactly(ranks: list[tuple[Third, Third]]) -> Third:
    for saved, loaded in ranks:
        assert loaded.grad_norm == saved.grad_norm
        assert all(np.array_equal(loaded.weights[name], saved.weights[name]) for name in saved.weights)
    return ranks[0][0]


@pytest.mark.usefixtures("data_parallel")
def test_two_data_parallel_ranks_continue_bit_for_bit():
    """The fixture compares them."""


@pytest.mark.parametrize(("tensor", "dtype"), [(2, "float32"), (1, "bfloat16")], ids=["TP2", "DP2 bfloat16"])
def test_dropout_and_float32_main_weights_continue_bit_for_bit(
    model: Path, tmp_path: Path, tensor: int, dtype: str
):
    ranks = run_distributed(save_after_two_steps, 2, model, tmp_path / "run", tensor, dtype, 0.1)
    assert_continued_exactly(ranks)


def test_optimizer_state_of_data_parallel_ranks_loads_into_tensor_parallel_ones(
    model: Path, data_parallel: tuple[Path, Third]
):
    checkpoint, expected = data_parallel
    for rank in run_distributed(third_step_in_another_layout, 2, model, checkpoint, 2):
        assert rank.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
        for name, weight in expected.weights.items():
            # A step of AdamW is some 0.01 wherever the moments were lost or mixed up.
            np.testing.assert_allclose(rank.weights[name], weight, rtol=0, atol=5e-5)


def test_conversion_leaves_optimizer_and_generators_out(
    model: Path, data_parallel: tuple[Path, Third], tmp_path: Path
):
    checkpoint, _ = data_parallel
    run_distributed(save_weights_alone, 2, model, checkpoint, tmp_path / "weights")
    for source, target in ((checkpoint, "full"), (tmp_path / "weights", "bare")):
        convert_mcore_to_hf(source, tmp_path / target, progress=False)
    assert_same_bits(tmp_path / "full", tmp_path / "bare")
    assert (tmp_path / "full" / "model.safetensors").read_bytes() == (
        tmp_path / "bare" / "model.safetensors"
    ).read_bytes()


def save_weights_alone(model: Path, source: Path, target: Path) -> None:
    backend = make_backend(model, 1)
    backend.load_state(load_checkpoint(source, backend.state()))
    save_checkpoint(target, 2, backend.state(), model)


def test_a_new_run_starts_from_the_weights_of_such_a_checkpoint(
    model: Path, data_parallel: tuple[Path, Third]
):
    checkpoint, _ = data_parallel
    [alone] = run_distributed(log_probs_of_checkpoint, 1, model, checkpoint, LAYOUTS["one"])
    assert len(alone) == 4


def test_a_damaged_byte_is_found_by_every_rank(
    model: Path, data_parallel: tuple[Path, Third], tmp_path: Path
):
    import shutil

    checkpoint = shutil.copytree(data_parallel[0], tmp_path / "run")
    saved = checkpoint / "iter_0000002"
    chunk = read_directory(saved)["decoder.final_layernorm.weight"].chunks[0]
    victim = saved / chunk.file
    with victim.open("r+b") as file:
        payload, _, _ = locate_tensor(file, chunk.offset, chunk.length)
        file.seek(payload)
        byte = file.read(1)
        file.seek(payload)
        file.write(bytes([byte[0] ^ 1]))
    for message in run_distributed(refusal_of_damage, 2, model, checkpoint):
        assert victim.name in message
        assert "damaged" in message


def refusal_of_damage(model: Path, checkpoint: Path) -> str:
    backend = make_backend(model, 1)
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
