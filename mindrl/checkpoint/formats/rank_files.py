"""Files of the layout from before `torch_dist`: what one rank held, in one `torch.save` archive.

mp_rank_00/model_optim_rng.pt           tensor-parallel rank
mp_rank_00_000/model_optim_rng.pt       and pipeline stage, or with experts and one stage: and expert-parallel rank
mp_rank_00_000_000/model_optim_rng.pt   and pipeline stage and expert-parallel rank

The archive's pickle is read inertly, tensors of weights are located, those of the optimizer are not even looked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from mindrl.checkpoint.byte_plan import StoredTensor
from mindrl.checkpoint.formats.inert_pickle import DAMAGE, PLAIN, TENSORS, Fields, PickledTensor, unpickled
from mindrl.checkpoint.formats.torch_archives import Archive, DamagedArchive
from mindrl.errors import RequestError
from mindrl.files import POINTER_REASON, is_pointer

FILE_NAMES = ("model_optim_rng.pt", "model_rng.pt")
"""The second with an optimizer that is spread over ranks and has files of its own."""
_DIRECTORY = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(?:_(\d{3,}))?")
_KNOWN = PLAIN | TENSORS | {("argparse", "Namespace"): Fields}
_MAX_PICKLE = 1 << 30
_NO_WEIGHTS = ("_extra_state", "inv_freq")
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_OLDEST_VERSION = 3.0
"""Of checkpoints; earlier ones have the rows of query, key and value in another order."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """Stands for a tensor that can't be read, and says why."""

    label: str
    reason: str


Weights = Mapping[str, StoredTensor | Unusable]


@dataclass(frozen=True)
class RankFile:
    """What is of use in one rank's file."""

    path: Path
    numbers: tuple[int, ...]
    """In the name of its directory."""
    iteration: int | None
    settings: Mapping[str, Any]
    """Megatron's arguments of the run that saved it, empty if there are none."""
    chunks: tuple[Weights, ...]
    """Weights by their names in the module; several of them with virtual pipeline stages."""

    def size(self, name: str) -> int | None:
        """A size that Megatron's arguments give, or None."""
        value = self.settings.get(name)
        return value if type(value) is int and value > 0 else None


def find_rank_files(checkpoint: Path) -> dict[tuple[int, ...], Path]:
    """Weight files by the numbers in their directories' names; directories of an optimizer alone are left out."""
    found: dict[tuple[int, ...], Path] = {}
    for directory in sorted(checkpoint.glob("mp_rank_*")):
        match = _DIRECTORY.fullmatch(directory.name)
        if match is None:
            continue
        file = next((directory / name for name in FILE_NAMES if (directory / name).exists()), None)
        if file is not None:
            found[tuple(int(number) for number in match.groups() if number is not None)] = file
    if not found:
        raise RequestError(
            f"{checkpoint} has directories mp_rank_*, but none of them holds {' or '.join(FILE_NAMES)}: weights are "
            "missing. Copy the checkpoint again."
        )
    if len({len(numbers) for numbers in found}) > 1:
        names = sorted({path.parent.name for path in found.values()}, key=len)
        raise RequestError(
            f"{checkpoint} holds files of different layouts, {names[0]} and {names[-1]}: they are of two checkpoints. "
            "Keep those of one."
        )
    return found


def read_rank_file(path: Path, numbers: tuple[int, ...]) -> RankFile:
    """Names, places and settings in a rank's file. Runs nothing of what is pickled there.

    `RequestError` for what is damaged, of another format, or from before Megatron-core."""
    try:
        return _read(path, numbers)
    except DamagedArchive as error:
        raise RequestError(f"{path} can't be read: {error}. Copy the checkpoint again.") from None
    except OSError as error:
        raise RequestError(f"{path} can't be read: {error.strerror}.") from error


def _read(path: Path, numbers: tuple[int, ...]) -> RankFile:
    with path.open("rb") as file:
        if is_pointer(path):
            raise RequestError(f"{path} {POINTER_REASON}")
        if file.read(len(_OLD_TORCH)) == _OLD_TORCH:
            raise RequestError(
                f"{path} is in the format of torch before 1.6, of which no part can be read without running what is "
                "pickled in it. Where you trust it, save it anew: "
                "torch.save(torch.load(path, weights_only=False), path)."
            )
        archive = Archive(file)
        try:
            content = unpickled(archive.read("data.pkl", _MAX_PICKLE), _KNOWN)
        except DAMAGE as error:
            raise DamagedArchive(f"its description can't be read: {error!r}") from None
        archive.require_byte_order()
        if not isinstance(content, dict):
            raise RequestError(f"{path} holds no checkpoint of Megatron: its content is no dictionary.")
        _check_version(path, content)
        settings = vars(content["args"]) if isinstance(content.get("args"), Fields) else {}
        iteration = content.get("iteration")
        return RankFile(
            path,
            numbers,
            iteration if type(iteration) is int else None,
            settings,
            tuple(_located(archive, path, name, content[name]) for name in _model_keys(path, content)),
        )


def _model_keys(path: Path, content: Mapping[Any, Any]) -> list[str]:
    keys = ["model"] if "model" in content else []
    keys = keys or list(takewhile(content.__contains__, (f"model{number}" for number in count())))
    if not keys or not all(isinstance(content[key], dict) for key in keys):
        raise RequestError(f"{path} holds no weights: it has neither 'model' nor 'model0', 'model1', ...")
    names = [name for key in keys for name in content[key] if isinstance(name, str)]
    if any(name == "language_model" or name.startswith("language_model.") for name in names):
        raise RequestError(
            f"{path} is of Megatron's models from before Megatron-core (language_model.encoder...). Convert it first "
            "with Megatron-LM: tools/checkpoint/convert.py --model-type GPT --loader legacy --saver core."
        )
    return keys


def _check_version(path: Path, content: Mapping[Any, Any]) -> None:
    version = content.get("checkpoint_version")
    if not isinstance(version, int | float) or not version >= _OLDEST_VERSION:
        said = "says nothing of its version" if version is None else "is of an earlier version"
        raise RequestError(
            f"{path} {said} (checkpoint_version {version if isinstance(version, int | float) else None}, needed is "
            f"{_OLDEST_VERSION}): query, key and value may be stored in another order. Load and save it with a recent "
            "Megatron-LM first."
        )


def _located(archive: Archive, path: Path, chunk: str, state: Mapping[Any, Any]) -> Weights:
    found: dict[str, StoredTensor | Unusable] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or name.endswith(_NO_WEIGHTS) or not isinstance(tensor, PickledTensor):
            continue
        label = f"{chunk} {name} in {path}"
        try:
            found[name] = archive.stored(tensor, label, path)
        except DamagedArchive as error:
            found[name] = Unusable(label, str(error))
    return found
