"""Checkpoints with a file for each rank: put together in every layout, and refused where that would be wrong."""

import argparse
import builtins
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import assert_same_bits, write_model
from rank_files import Grid, Save, State, write_rank_files

from mindrl.checkpoint.conversion.convert import convert_mcore_to_hf
from mindrl.checkpoint.directories import latest_checkpoint
from mindrl.errors import RequestError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    sizes = {"tied": False, "num_hidden_layers": 4, "dtype": torch.bfloat16}
    return {
        family: write_model(folder / family, family, **sizes)
        for family in ("llama", "qwen3", "qwen3_moe", "deepseek_v3")
    }


def to_hf(checkpoint: Path, hf: Path, target: Path) -> Path:
    return convert_mcore_to_hf(checkpoint, target, hf_dir=hf, progress=False).output


@pytest.mark.parametrize(
    ("family", "grid"),
    [
        ("llama", Grid()),
        ("llama", Grid(tensor=2)),
        ("qwen3", Grid(tensor=2, stages=((1,), (3,)))),
        ("qwen3", Grid(stages=((2, 1), (1, 0)))),
        ("qwen3_moe", Grid(expert=2)),
        ("qwen3_moe", Grid(tensor=2, expert=4, expert_tensor=1)),
        ("qwen3_moe", Grid(tensor=2, expert=2, stages=((1, 1), (1, 1)))),
        ("deepseek_v3", Grid(tensor=2, expert=2, stages=((3,), (1,)))),
        ("deepseek_v3", Grid(tensor=4, expert=2, expert_tensor=2)),
    ],
    ids=str,
)
def test_ranks_are_put_together(models: dict[str, Path], family: str, grid: Grid, tmp_path: Path):
    hf = models[family]
    assert_same_bits(to_hf(write_rank_files(hf, tmp_path / "ranks", grid), hf, tmp_path / "back"), hf)


def as_transformer_engine(name: str) -> str:
    """Norms belong to the projection that follows; experts are numbered last."""
    name = name.replace("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight")
    return re.sub(r"local_experts\.(\d+)\.(linear_fc[12])\.weight", r"\2.weight\1", name)


def as_one_matrix(state: State) -> State:
    """All experts of a layer in `weight1` [hidden, experts * 2 * width] and `weight2` [experts * width, hidden]."""
    flat: State = {}
    experts: dict[str, list[torch.Tensor]] = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(.*\.experts\.)local_experts\.\d+\.linear_fc([12])\.weight", name)
        if match:
            experts.setdefault(f"{match[1]}weight{match[2]}", []).append(tensor.T.contiguous())
        else:
            flat[name] = tensor
    for name, parts in experts.items():
        stacked = torch.stack(parts)  # [experts, inputs, outputs]
        flat[name] = stacked.view(stacked.shape[1], -1) if name.endswith("1") else stacked.flatten(0, 1)
    return flat


def in_one_storage(state: State) -> State:
    """As parameters lie that a distributed optimizer has put into one buffer."""
    buffer = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = buffer.split([tensor.numel() for tensor in state.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(state.items(), parts, strict=True)}


def turned(state: State) -> State:
    """The same values, stored as those of the transpose."""
    return {name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "save",
    [
        Save(rename=as_transformer_engine),
        Save(change=as_one_matrix),
        Save(change=in_one_storage),
        Save(change=turned),
        Save(change=lambda state: state | {"decoder.layers.0.mlp._extra_state": io.BytesIO(b"x")}),
    ],
    ids=["TransformerEngine's names", "one matrix", "one storage", "turned", "extra state"],
)
def test_weights_are_found_whatever_module_held_them(models: dict[str, Path], save: Save, tmp_path: Path):
    hf = models["qwen3_moe"]
    grid = Grid(tensor=2, expert=2)
    assert_same_bits(to_hf(write_rank_files(hf, tmp_path / "ranks", grid, save), hf, tmp_path / "back"), hf)


def test_trackers_lead_to_them_and_an_optimizers_directories_are_left_out(
    models: dict[str, Path], tmp_path: Path
):
    hf, run = models["llama"], tmp_path / "run"
    write_rank_files(hf, run / "iter_0000007", Grid(tensor=2))
    for rank in (0, 1):
        (run / f"iter_0000007/mp_rank_{rank:02d}_000").mkdir()
        (run / f"iter_0000007/mp_rank_{rank:02d}_000/optim.pt").write_bytes(b"moments")
        weights = run / f"iter_0000007/mp_rank_{rank:02d}/model_optim_rng.pt"
        weights.rename(weights.with_name("model_rng.pt"))
    (run / "latest_checkpointed_iteration.txt").write_text("7")
    assert_same_bits(to_hf(run, hf, tmp_path / "back"), hf)
    (run / "iter_0000007").rename(run / "release")
    (run / "latest_checkpointed_iteration.txt").write_text("release")
    assert_same_bits(to_hf(run, hf, tmp_path / "again"), hf)
    with pytest.raises(RequestError, match=r"a file for each rank.*`mindrl convert`"):
        latest_checkpoint(run)


# Nothing that is pickled runs.


class Call:
    """Calls a function when unpickled by the ordinary unpickler."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("where", ["args", "rng_state", "model"])
def test_code_in_a_rank_file_does_not_run(models: dict[str, Path], where: str, tmp_path: Path):
    hf, sprung = models["llama"], tmp_path / "sprung"
    calls = [
        Call(os.system, f"touch {sprung}"),
        Call(builtins.eval, f"open({str(sprung)!r}, 'w')"),
        Call(builtins.exec, f"open({str(sprung)!r}, 'w')"),
        Call(Path.touch, sprung),
        Call(torch.load, str(sprung)),
    ]
    change: Callable[[State], State] = dict
    if where == "model":
        change = lambda state: state | {"decoder._extra_state": calls}  # noqa: E731
    content = {} if where == "model" else {where: calls}
    checkpoint = write_rank_files(hf, tmp_path / "ranks", Grid(), Save(change=change, content=content))
    assert_same_bits(to_hf(checkpoint, hf, tmp_path / "back"), hf)
    assert not sprung.exists()


def test_the_trap_works(tmp_path: Path):
    torch.save({"args": Call(os.system, f"touch {tmp_path}/sprung")}, tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "sprung").exists()


# Refusals name the file and what to do.


def with_value(state: State, name: str, row: int) -> State:
    state[name][row] += 1
    return state


def shifted(state: State) -> State:
    return state | {"decoder.final_layernorm.weight": torch.arange(64, dtype=torch.bfloat16)[::2]}


REFUSED: dict[str, tuple[Grid, Save, str]] = {
    "earlier version": (Grid(), Save(content={"checkpoint_version": 2.0}), "earlier version.*another order"),
    "no version": (Grid(), Save(content={"checkpoint_version": None}), "nothing of its version"),
    "before Megatron-core": (
        Grid(),
        Save(content={"model": {"language_model": {"encoder": {}}}}),
        "before Megatron-core.*loader legacy --saver core",
    ),
    "no weights": (Grid(), Save(content={"model": None}), "holds no weights"),
    "stride": (
        Grid(),
        Save(change=shifted),
        r"final_layernorm.*mp_rank_00.*not contiguous \(strides \(2,\)\)",
    ),
    "type": (
        Grid(),
        Save(change=lambda state: {name: tensor.double() for name, tensor in state.items()}),
        "mp_rank_00.*its type is float64",
    ),
    "unknown tensor": (
        Grid(),
        Save(change=lambda state: state | {"decoder.layers.0.mlp.linear_fc1.bias": torch.ones(3)}),
        r"does not have: decoder\.layers\.0\.mlp\.linear_fc1\.bias",
    ),
    "missing tensor": (
        Grid(),
        Save(rename=lambda name: name.replace("layers.2.self_attention.q_layernorm", "nothing")),
        r"layers\.2\.self_attention\.q_layernorm\.weight.*needs",
    ),
    "shape": (
        Grid(tensor=2),
        Save(change=lambda state: {name: tensor[:-1].clone() for name, tensor in state.items()}),
        r"mp_rank_00.*in 2 parts of .*config\.json wants",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_wrong_is_refused(models: dict[str, Path], case: str, tmp_path: Path):
    grid, save, told = REFUSED[case]
    checkpoint = write_rank_files(models["qwen3"], tmp_path / "ranks", grid, save)
    with pytest.raises(RequestError, match=f"(?s){told}"):
        to_hf(checkpoint, models["qwen3"], tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["ranks"]


@pytest.mark.parametrize(("num_layers", "told"), [(3, "does not have: .*layers.3"), (5, "layers.4.*needs")])
def test_a_model_of_another_depth_is_refused(
    models: dict[str, Path], num_layers: int, told: str, tmp_path: Path
):
    other = write_model(tmp_path / "other", "qwen3", tied=False, num_hidden_layers=num_layers)
    checkpoint = write_rank_files(models["qwen3"], tmp_path / "ranks", Grid(stages=((2,), (2,))))
    with pytest.raises(RequestError, match=told):
        to_hf(checkpoint, other, tmp_path / "back")


def remove(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: shutil.rmtree(checkpoint / name)


def rewrite(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(checkpoint: Path) -> None:
        path = checkpoint / name / "model_optim_rng.pt"
        content = torch.load(path, weights_only=False)
        change(content)
        torch.save(content, path)

    return apply


def forget_settings(name: str) -> Callable[[Path], None]:
    """Then only the files themselves tell how many there should be."""

    def apply(checkpoint: Path) -> None:
        for directory in checkpoint.iterdir():
            rewrite(directory.name, lambda content: content.pop("args"))(checkpoint)
        shutil.rmtree(checkpoint / name)

    return apply


def cut_off(checkpoint: Path) -> None:
    path = checkpoint / "mp_rank_01_000_001/model_optim_rng.pt"
    path.write_bytes(path.read_bytes()[:-100])


def save_without_zip(checkpoint: Path) -> None:
    torch.save({}, checkpoint / "mp_rank_00_000_000/model_optim_rng.pt", _use_new_zipfile_serialization=False)


def drift(content: dict[str, Any]) -> None:
    content["model"]["decoder.layers.0.input_layernorm.weight"][3] += 1


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            remove("mp_rank_01_000_000"),
            None,
        ),  # the other expert-parallel rank's file has the same dense weights
        (remove("mp_rank_00_001_001"), "mlp.experts|expert rank 1 in pipeline stage 1|part 0"),
        (forget_settings("mp_rank_00_001_001"), "mlp.experts|part 0"),
        (rewrite("mp_rank_01_001_000", lambda content: content.update(iteration=8)), "of iteration 7.*of 8"),
        (rewrite("mp_rank_01_000_000", drift), "decoder.layers.0.input_layernorm.weight.*different values"),
        (cut_off, r"mp_rank_01_000_001.*can't be read"),
        (save_without_zip, r"mp_rank_00_000_000.*torch before 1\.6.*save it anew"),
    ],
    ids=["spare", "rank", "rank without settings", "iteration", "drift", "cut off", "old torch"],
)
def test_files_that_do_not_belong_together_are_refused(
    models: dict[str, Path], damage: Callable[[Path], None], told: str | None, tmp_path: Path
):
    grid = Grid(tensor=2, expert=2, stages=((2,), (2,)))
    checkpoint = write_rank_files(models["qwen3_moe"], tmp_path / "ranks", grid)
    damage(checkpoint)
    with pytest.raises(RequestError, match=told and f"(?s){told}"):
        to_hf(checkpoint, models["qwen3_moe"], tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["ranks"]


@pytest.mark.parametrize(
    "grid", [Grid(tensor=2), Grid(stages=((2,), (2,))), Grid(tensor=2, stages=((2,), (2,)))]
)
@pytest.mark.parametrize("settings", [True, False])
def test_every_missing_file_is_refused(models: dict[str, Path], grid: Grid, settings: bool, tmp_path: Path):
    hf = models["llama"]
    content = {} if settings else {"args": argparse.Namespace()}
    checkpoint = write_rank_files(hf, tmp_path / "all", grid, Save(content=content))
    for directory in sorted(checkpoint.iterdir()):
        directory.rename(tmp_path / "aside")
        with pytest.raises(RequestError):
            to_hf(checkpoint, hf, tmp_path / "back")
        (tmp_path / "aside").rename(directory)
    assert_same_bits(to_hf(checkpoint, hf, tmp_path / "back"), hf)
