"""Offline conversion between Hugging Face directories and Megatron checkpoint directories, without building a model.

What a conversion is, is decided here: what is read, what goes with it, where the result lies. How it is carried out is
the engine's.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from mindrl.checkpoint import directories
from mindrl.checkpoint.byte_plan import CopyPlan
from mindrl.checkpoint.companions import Companions, find_companions
from mindrl.checkpoint.conversion.engine import ALONE, Job, Outcome, Work, carry_out
from mindrl.checkpoint.conversion.hf_to_mcore import McorePlan, plan_hf_to_mcore
from mindrl.checkpoint.conversion.manifest import MANIFEST_NAME
from mindrl.checkpoint.conversion.mcore_to_hf import LARGEST_FILE_BYTES, HfPlan, plan_mcore_to_hf
from mindrl.checkpoint.expected import expected_tensors
from mindrl.checkpoint.formats.fp8_blocks import without_fp8
from mindrl.checkpoint.formats.safetensors_files import INDEX_NAME, read_model
from mindrl.checkpoint.formats.torch_dist import METADATA_NAME, metadata_bytes, prepare_metadata
from mindrl.checkpoint.saved_weights import open_checkpoint
from mindrl.checkpoint.tokenizer_check import check_tokenizer
from mindrl.errors import RequestError
from mindrl.files import read_json_object
from mindrl.weight_maps import MTP_PREFIX, Architecture, WeightMap, architecture_of, weight_map
from mindrl.weight_maps.architecture import read_config

Mtp = Literal["keep", "drop"]
_FROM_MCORE = "mcore"
_DESCRIPTION = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


@dataclass(frozen=True)
class Conversion:
    """What was done."""

    output: Path
    family: str
    dtype: str
    """Type of the resulting weights, several joined by commas."""
    num_parameters: int
    outcome: Outcome
    notes: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Payload of the result."""
        return self.outcome.num_bytes


def convert_hf_to_mcore(
    load_dir: Path,
    save_dir: Path,
    *,
    dtype: str | None = None,
    tensor_parallel_size: int | None = None,
    expert_tensor_parallel_size: int | None = None,
    mtp: Mtp | None = None,
    tokenizer: Path | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    work: Work = ALONE,
    check: Callable[[Architecture], None] = lambda _: None,
) -> Conversion:
    """Write `save_dir/{release, hf, latest_checkpointed_iteration.txt}`, loadable at any parallel layout.

    `dtype` None keeps each tensor's type, and makes bfloat16 of FP8; the parallel sizes are hints for the number of
    parts; `mtp`: what becomes of layers for multi-token prediction, to be said where there are any; `tokenizer` is a
    file or directory to take the tokenizer from instead; `trust_remote_code` has the tokenizer loaded, its own code included, before anything is written; `check` may refuse
    the model before anything is planned."""
    config = without_fp8(read_config(load_dir), load_dir / "config.json")
    arch = architecture_of(config, weights_only=True)
    check(arch)
    found = read_model(load_dir)
    weights = weight_map(
        arch, mtp=_keeps_mtp(arch, mtp, any(map(weight_map(arch).leaves_out, found)), load_dir)
    )
    stored, notes = expected_tensors(weights, found, load_dir, compare=not work.dry_run)
    plan = plan_hf_to_mcore(weights, stored, dtype, tensor_parallel_size, expert_tensor_parallel_size)
    companions = _find_companions(load_dir, tokenizer, plan.copy, weights, trust_remote_code)
    job = Job(
        plan=plan.copy,
        source=load_dir,
        target=save_dir,
        folder=directories.RELEASE,
        options={"from": "hf", "dtype": dtype, "parts": [tensor_parallel_size, expert_tensor_parallel_size]},
        bytes_beside=companions.num_bytes,
        finish=lambda root: _finish_checkpoint(root, plan, companions),
        small_files=("common.pt", "metadata.json", METADATA_NAME),
        marker=directories.TRACKER_NAME,
        overwrite=overwrite,
    )
    if not work.dry_run:
        prepare_metadata()
    outcome = carry_out(job, work, progress=progress)
    dtypes = ", ".join(sorted({tensor.dtype for tensor in plan.tensors}))
    said = (*notes, *companions.notes, *outcome.notes)
    return Conversion(save_dir, arch.family, dtypes, weights.num_parameters, outcome, said)


def convert_mcore_to_hf(
    load_dir: Path,
    save_dir: Path,
    *,
    dtype: str | None = None,
    hf_dir: Path | None = None,
    mtp: Mtp | None = None,
    tokenizer: Path | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    max_file_bytes: int = LARGEST_FILE_BYTES,
    work: Work = ALONE,
    check: Callable[[Architecture], None] = lambda _: None,
) -> Conversion:
    """Write a Hugging Face directory from the latest checkpoint in `load_dir` (or from one
    checkpoint's own directory), in either layout.

    Config and tokenizer come from `hf_dir`, else from `hf/` beside the checkpoint, else from `save_dir` where that
    is itself a Hugging Face directory; such a `save_dir` is kept and the result goes to `save_dir/mg2hg`, unless it is
    an earlier result itself."""
    checkpoint = directories.latest_weights(load_dir)
    target, notes = save_dir, ()
    if (save_dir / "config.json").exists() and not _is_result(save_dir):
        target = save_dir / "mg2hg"
        notes = (f"{save_dir} is a Hugging Face directory: it is kept, the result is in {target}.",)
    config_dir = _config_directory(checkpoint, hf_dir, save_dir)
    config = without_fp8(read_config(config_dir), config_dir / "config.json")
    arch = architecture_of(config, weights_only=True)
    check(arch)
    with open_checkpoint(checkpoint) as saved:
        # A checkpoint of training has none, whatever the config.json of the model it began with says.
        present = any(name.startswith(MTP_PREFIX) for name in saved.names())
        weights = weight_map(arch, mtp=_keeps_mtp(arch, mtp, present, config_dir))
        plan = plan_mcore_to_hf(weights, saved, dtype, max_file_bytes)
    companions = _find_companions(config_dir, tokenizer, plan.copy, weights, trust_remote_code)
    options = {"from": _FROM_MCORE, "dtype": dtype, "max_file_bytes": max_file_bytes}
    job = replace(hf_job(plan, checkpoint, target, options, companions), overwrite=overwrite)
    outcome = carry_out(job, work, progress=progress)
    dtypes = ", ".join(sorted(plan.dtypes))
    said = (*notes, *companions.notes, *outcome.notes)
    return Conversion(target, arch.family, dtypes, weights.num_parameters, outcome, said)


def hf_job(
    plan: HfPlan, source: Path, target: Path, options: Mapping[str, Any], companions: Companions
) -> Job:
    """A job whose result is a Hugging Face directory."""

    def finish(root: Path) -> None:
        if plan.index is not None:
            _write_json(root / INDEX_NAME, plan.index)
        companions.write(root)

    beside = companions.num_bytes
    return Job(plan.copy, source, target, "", options, beside, finish, (INDEX_NAME,), MANIFEST_NAME)


def _finish_checkpoint(root: Path, plan: McorePlan, companions: Companions) -> None:
    """Everything but the weights of a Megatron checkpoint directory; last what says that it is one."""
    release = root / directories.RELEASE
    torch.save({"content_metadata": {}, "iteration": 0, "checkpoint_version": 3.0}, release / "common.pt")
    _write_json(release / "metadata.json", _DESCRIPTION)
    companions.write(root / directories.HF_NAME)
    (release / METADATA_NAME).write_bytes(metadata_bytes(plan.tensors, plan.objects))
    directories.write_tracker(root, directories.RELEASE)


def _is_result(directory: Path) -> bool:
    """Whether a Hugging Face directory came out of a checkpoint, so that nobody's base weights are in it."""
    manifest = directory / MANIFEST_NAME
    return manifest.is_file() and read_json_object(manifest).get("options", {}).get("from") == _FROM_MCORE


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


def _keeps_mtp(arch: Architecture, choice: Mtp | None, present: bool, hf_dir: Path) -> bool:
    """Whether layers for multi-token prediction go along: nobody else can know whether they are wanted."""
    if choice is None and arch.num_mtp_layers and present:
        raise RequestError(
            f"{hf_dir} has {arch.num_mtp_layers} layers for multi-token prediction (num_nextn_predict_layers): say "
            "--mtp keep to take them along, or --mtp drop to leave them out (training here does not use them)."
        )
    if choice == "keep" and not arch.num_mtp_layers:
        raise RequestError(f"--mtp keep: config.json in {hf_dir} has no layers for multi-token prediction.")
    return choice == "keep"


def _find_companions(
    hf_dir: Path, tokenizer: Path | None, plan: CopyPlan, weights: WeightMap, trust_remote_code: bool
) -> Companions:
    """The files beside the weights, with a config.json that says what they are now; their tokenizer looked at where
    that may run code."""
    companions = find_companions(hf_dir, tokenizer).saying(main_dtype(plan))
    config = without_fp8(companions.config, hf_dir / "config.json")
    if weights.architecture.num_mtp_layers and not weights.mtp:
        config["num_nextn_predict_layers"] = 0
    companions = replace(companions, config=config)
    if not trust_remote_code:
        return companions
    told = check_tokenizer(companions, weights.architecture.vocab_size)
    return replace(companions, notes=(*companions.notes, told))


def main_dtype(plan: CopyPlan) -> str:
    """The type of most values: what config.json says. A router's bias may be of another."""
    values: Counter[str] = Counter()
    for file in plan.files:
        for record in file.records:
            values[record.dtype] += record.rows * record.columns
    return values.most_common(1)[0][0]


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
