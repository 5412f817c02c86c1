"""Hugging Face FP8 -> Hugging Face with dequantised weights, for models of any architecture.

What is FP8 the files themselves say, so that no weight map is needed; every other tensor goes along bit for bit. The
files keep their names, and what the files named, in their order.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mindrl.checkpoint.byte_plan import FP8, CopyPlan, StoredTensor, Tile
from mindrl.checkpoint.companions import find_companions
from mindrl.checkpoint.conversion.convert import Conversion, hf_job, main_dtype
from mindrl.checkpoint.conversion.engine import ALONE, Work, carry_out
from mindrl.checkpoint.conversion.mcore_to_hf import HfPlan
from mindrl.checkpoint.formats.fp8_blocks import without_fp8
from mindrl.checkpoint.formats.safetensors_files import Planned, lay_out, lay_out_as, read_model
from mindrl.errors import RequestError


def convert_fp8(
    load_dir: Path,
    save_dir: Path,
    *,
    dtype: str | None = None,
    tokenizer: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    max_file_bytes: int | None = None,
    work: Work = ALONE,
) -> Conversion:
    """Write a Hugging Face directory with the weights of another, in which there is FP8.

    `dtype` is what becomes of FP8, None: bfloat16; everything else keeps its type. `max_file_bytes` None keeps the
    files' names. `overwrite` replaces the result of a conversion, no other directory."""
    companions = find_companions(load_dir, tokenizer)
    config = without_fp8(companions.config, load_dir / "config.json")
    plan = plan_from_fp8(read_model(load_dir), load_dir, dtype, max_file_bytes)
    companions = replace(companions, config=config).saying(main_dtype(plan.copy))
    options = {"from": "fp8", "dtype": dtype, "max_file_bytes": max_file_bytes}
    job = replace(hf_job(plan, load_dir, save_dir, options, companions), overwrite=overwrite)
    outcome = carry_out(job, work, progress=progress)
    records = (record for file in plan.copy.files for record in file.records)
    return Conversion(
        output=save_dir,
        family=str(config.get("model_type", "unknown model")),
        dtype=", ".join(sorted(plan.dtypes)),
        num_parameters=sum(record.rows * record.columns for record in records),
        outcome=outcome,
        notes=(*companions.notes, *outcome.notes),
    )


def plan_from_fp8(
    stored: Mapping[str, StoredTensor], hf_dir: Path, dtype: str | None, max_file_bytes: int | None
) -> HfPlan:
    """`stored`: all tensors of `hf_dir`; `dtype`: of those that are FP8 there, None for bfloat16; `max_file_bytes`:
    None for files of the same names as the source's."""
    if not any(tensor.dtype == FP8 for tensor in stored.values()):
        raise RequestError(f"{hf_dir} holds no FP8 tensor (F8_E4M3): there is nothing to convert.")
    groups: dict[str, list[Planned]] = {}
    for tensor in stored.values():
        wanted = (dtype or tensor.value_dtype) if tensor.dtype == FP8 else tensor.dtype
        planned = (tensor.name, tensor.shape, wanted, _whole(tensor))
        groups.setdefault(tensor.path.name, []).append(planned)
    everything = [tensor for group in groups.values() for tensor in group]
    files, index = lay_out_as(groups) if max_file_bytes is None else lay_out(everything, max_file_bytes)
    sources = tuple(tensor for tensor in stored.values() if tensor.num_bytes)
    return HfPlan(CopyPlan(sources, files), index, frozenset(tensor[2] for tensor in everything))


def _whole(tensor: StoredTensor) -> tuple[Tile, ...]:
    return (Tile(tensor, 0, 0, 0, 0, tensor.rows, tensor.columns),) if tensor.num_bytes else ()
