"""Offline conversion between Hugging Face directories and Megatron checkpoint directories, without building a model."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from mindrl.checkpoint import directories
from mindrl.checkpoint.byte_plan import CopyPlan
from mindrl.checkpoint.companions import Companions, find_companions
from mindrl.checkpoint.conversion.copying import carry_out
from mindrl.checkpoint.conversion.hf_to_mcore import plan_hf_to_mcore
from mindrl.checkpoint.conversion.mcore_to_hf import LARGEST_FILE_BYTES, plan_mcore_to_hf
from mindrl.checkpoint.expected import expected_tensors
from mindrl.checkpoint.formats.safetensors_files import INDEX_NAME, read_model
from mindrl.checkpoint.formats.torch_dist import METADATA_NAME, metadata_bytes
from mindrl.checkpoint.plan_proof import prove
from mindrl.checkpoint.saved_weights import open_checkpoint
from mindrl.checkpoint.tokenizer_check import check_tokenizer
from mindrl.errors import RequestError
from mindrl.weight_maps import Architecture, read_architecture, weight_map

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
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    check: Callable[[Architecture], None] = lambda _: None,
) -> Conversion:
    """Write `save_dir/{release, hf, latest_checkpointed_iteration.txt}`, loadable at any parallel layout.

    `dtype` None keeps each tensor's type; `tokenizer` is a file or directory to take the tokenizer from instead;
    `trust_remote_code` has the tokenizer loaded, its own code included, before anything is written; `check` may refuse
    the model before anything is planned."""
    arch = read_architecture(load_dir)
    check(arch)
    weights = weight_map(arch)
    stored, notes = expected_tensors(weights, read_model(load_dir), load_dir)
    directories.refuse_existing(save_dir, overwrite, directories.TRACKER_NAME)
    plan = plan_hf_to_mcore(weights, stored, dtype, tensor_parallel_size)
    prove(plan.copy)
    companions = _find_companions(
        load_dir, tokenizer, _main_dtype(plan.copy), arch.vocab_size, trust_remote_code
    )
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
        companions.write(root / directories.HF_NAME)
        (release / METADATA_NAME).write_bytes(metadata_bytes(plan.tensors, plan.objects))
        directories.write_tracker(root, directories.RELEASE)
    dtypes = ", ".join(sorted({tensor.dtype for tensor in plan.tensors}))
    return Conversion(
        save_dir,
        arch.family,
        dtypes,
        weights.num_parameters,
        plan.copy.num_bytes,
        (*notes, *companions.notes),
    )


def convert_mcore_to_hf(
    load_dir: Path,
    save_dir: Path,
    *,
    dtype: str | None = None,
    hf_dir: Path | None = None,
    tokenizer: Path | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    max_file_bytes: int = LARGEST_FILE_BYTES,
    check: Callable[[Architecture], None] = lambda _: None,
) -> Conversion:
    """Write a Hugging Face directory from the latest checkpoint in `load_dir` (or from one `torch_dist` directory).

    Config and tokenizer come from `hf_dir`, else from `hf/` beside the checkpoint, else from `save_dir` where that
    is itself a Hugging Face directory; such a `save_dir` is kept and the result goes to `save_dir/mg2hg`."""
    checkpoint = directories.latest_weights(load_dir)
    target, notes = save_dir, ()
    if (save_dir / "config.json").exists():
        target = save_dir / "mg2hg"
        notes = (f"{save_dir} is a Hugging Face directory: it is kept, the result is in {target}.",)
    config_dir = _config_directory(checkpoint, hf_dir, save_dir)
    arch = read_architecture(config_dir)
    check(arch)
    weights = weight_map(arch)
    directories.refuse_existing(target, overwrite, "config.json")
    with open_checkpoint(checkpoint) as saved:
        plan = plan_mcore_to_hf(weights, saved, dtype, max_file_bytes)
    prove(plan.copy)
    companions = _find_companions(
        config_dir, tokenizer, _main_dtype(plan.copy), arch.vocab_size, trust_remote_code
    )
    with directories.appearing_at(target) as root:
        _copy(plan.copy, root, progress, companions)
        if plan.index is not None:
            _write_json(root / INDEX_NAME, plan.index)
        companions.write(root)
    dtypes = ", ".join(sorted(plan.dtypes))
    return Conversion(
        target, arch.family, dtypes, weights.num_parameters, plan.copy.num_bytes, (*notes, *companions.notes)
    )


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


def _find_companions(
    hf_dir: Path, tokenizer: Path | None, dtype: str, vocab_size: int, trust_remote_code: bool
) -> Companions:
    """The files beside the weights, with a config.json of `dtype`; their tokenizer looked at where that may run code."""
    companions = find_companions(hf_dir, tokenizer).saying(dtype)
    if not trust_remote_code:
        return companions
    return replace(companions, notes=(*companions.notes, check_tokenizer(companions, vocab_size)))


def _main_dtype(plan: CopyPlan) -> str:
    """The type of most values: what config.json says. A router's bias may be of another."""
    values: Counter[str] = Counter()
    for file in plan.files:
        for record in file.records:
            values[record.dtype] += record.rows * record.columns
    return values.most_common(1)[0][0]


def _copy(plan: CopyPlan, directory: Path, progress: bool, companions: Companions) -> None:
    """Carry the plan out where there is room for it, for the files beside the weights, and for what describes them."""
    beside = companions.num_bytes + DESCRIPTION_BYTES
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


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
