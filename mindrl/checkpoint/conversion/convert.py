"""Offline conversion between Hugging Face directories and Megatron checkpoint directories, without building a model."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from mindrl.checkpoint import directories
from mindrl.checkpoint.byte_plan import CopyPlan
from mindrl.checkpoint.conversion.copying import carry_out
from mindrl.checkpoint.conversion.hf_to_mcore import plan_hf_to_mcore
from mindrl.checkpoint.conversion.mcore_to_hf import LARGEST_FILE_BYTES, plan_mcore_to_hf
from mindrl.checkpoint.expected import expected_tensors
from mindrl.checkpoint.formats.safetensors_files import INDEX_NAME, read_model
from mindrl.checkpoint.formats.torch_dist import METADATA_NAME, metadata_bytes, read_directory
from mindrl.checkpoint.plan_proof import prove
from mindrl.errors import RequestError
from mindrl.weight_maps import Architecture, read_architecture, weight_map
from mindrl.weight_maps.architecture import read_config

DESCRIPTION_BYTES = 1 << 16


@dataclass(frozen=True)
class Conversion:
    """What was done."""

    output: Path
    family: str
    dtype: str
    """Type of the resulting weights, several joined by commas."""
    num_parameters: int
    num_bytes: int
    notes: tuple[str, ...] = ()


def convert_hf_to_mcore(
    load_dir: Path,
    save_dir: Path,
    *,
    dtype: str | None = None,
    tensor_parallel_size: int | None = None,
    tokenizer: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    check: Callable[[Architecture], None] = lambda _: None,
) -> Conversion:
    """Write `save_dir/{release, hf, latest_checkpointed_iteration.txt}`, loadable at any parallel layout.

    `dtype` None keeps each tensor's type; `tokenizer` is a file or directory to take the tokenizer from instead;
    `check` may refuse the model before anything is planned."""
    arch = read_architecture(load_dir)
    check(arch)
    weights = weight_map(arch)
    stored, notes = expected_tensors(weights, read_model(load_dir), load_dir)
    companions = _companions(load_dir, tokenizer)
    directories.refuse_existing(save_dir, overwrite, directories.TRACKER_NAME)
    plan = plan_hf_to_mcore(weights, stored, dtype, tensor_parallel_size)
    prove(plan.copy)
    with directories.appearing_at(save_dir) as root:
        release = root / directories.RELEASE
        release.mkdir()
        _copy(plan.copy, release, progress, companions)
        torch.save({"content_metadata": {}, "iteration": 0, "checkpoint_version": 3.0}, release / "common.pt")
        _write_json(
            release / "metadata.json",
            {
                "sharded_backend": "torch_dist",
                "sharded_backend_version": 1,
                "common_backend": "torch",
                "common_backend_version": 1,
            },
        )
        _copy_files(companions, root / directories.HF_NAME)
        (release / METADATA_NAME).write_bytes(metadata_bytes(plan.tensors, plan.objects))
        directories.write_tracker(root, directories.RELEASE)
    dtypes = ", ".join(sorted({tensor.dtype for tensor in plan.tensors}))
    return Conversion(save_dir, arch.family, dtypes, weights.num_parameters, plan.copy.num_bytes, notes)


def convert_mcore_to_hf(
    load_dir: Path,
    save_dir: Path,
    *,
    dtype: str | None = None,
    hf_dir: Path | None = None,
    tokenizer: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    max_file_bytes: int = LARGEST_FILE_BYTES,
    check: Callable[[Architecture], None] = lambda _: None,
) -> Conversion:
    """Write a Hugging Face directory from the latest checkpoint in `load_dir` (or from one `torch_dist` directory).

    Config and tokenizer come from `hf_dir`, else from `hf/` beside the checkpoint, else from `save_dir` where that
    is itself a Hugging Face directory; such a `save_dir` is kept and the result goes to `save_dir/mg2hg`."""
    checkpoint = directories.latest_checkpoint(load_dir)
    target, notes = save_dir, ()
    if (save_dir / "config.json").exists():
        target = save_dir / "mg2hg"
        notes = (f"{save_dir} is a Hugging Face directory: it is kept, the result is in {target}.",)
    config_dir = _config_directory(checkpoint, hf_dir, save_dir)
    arch = read_architecture(config_dir)
    check(arch)
    weights = weight_map(arch)
    companions = _companions(config_dir, tokenizer)
    directories.refuse_existing(target, overwrite, "config.json")
    plan = plan_mcore_to_hf(weights, checkpoint, read_directory(checkpoint), dtype, max_file_bytes)
    prove(plan.copy)
    with directories.appearing_at(target) as root:
        _copy(plan.copy, root, progress, companions)
        if plan.index is not None:
            _write_json(root / INDEX_NAME, plan.index)
        _copy_files(companions, root)
        if plan.dtypes != {arch.dtype} and len(plan.dtypes) == 1:
            _set_dtype(root / "config.json", next(iter(plan.dtypes)))
    dtypes = ", ".join(sorted(plan.dtypes))
    return Conversion(target, arch.family, dtypes, weights.num_parameters, plan.copy.num_bytes, notes)


def _config_directory(checkpoint: Path, hf_dir: Path | None, save_dir: Path) -> Path:
    if hf_dir is not None:
        return hf_dir
    candidates = (directories.hf_directory(checkpoint), save_dir)
    for candidate in candidates:
        if (candidate / "config.json").exists():
            return candidate
    raise RequestError(
        f"config.json of the model in {checkpoint} is neither in {candidates[0]} nor in {candidates[1]}: "
        "say where with --hf-dir."
    )


def _companions(hf_dir: Path, tokenizer: Path | None) -> list[Path]:
    files = {path.name: path for path in directories.companion_files(hf_dir)}
    if tokenizer is not None:
        if not tokenizer.exists():
            raise RequestError(f"--tokenizer-model {tokenizer} does not exist.")
        replacements = directories.companion_files(tokenizer) if tokenizer.is_dir() else [tokenizer]
        files |= {path.name: path for path in replacements if path.name not in ("config.json",)}
    return list(files.values())


def _copy(plan: CopyPlan, directory: Path, progress: bool, companions: Sequence[Path]) -> None:
    """Carry the plan out where there is room for it, for the files beside the weights, and for what describes them."""
    beside = sum(path.stat().st_size for path in companions) + DESCRIPTION_BYTES
    needed, free = sum(file.size for file in plan.files) + beside, shutil.disk_usage(directory).free
    if needed > free:
        raise RequestError(
            f"--save-dir: the disk there has {free / 1e9:.3g} GB free, the result takes {needed / 1e9:.3g} GB. Make "
            "room, or choose another place."
        )
    with tqdm(
        total=plan.num_bytes, unit="B", unit_scale=True, desc="convert", disable=not progress, file=sys.stderr
    ) as bar:
        carry_out(plan, directory, bar.update)


def _copy_files(files: list[Path], directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for path in files:
        shutil.copyfile(path, directory / path.name)


def _set_dtype(config_path: Path, dtype: str) -> None:
    """Say the type that the weights now have, under the key that is there."""
    config = read_config(config_path.parent)
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    _write_json(config_path, config)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
