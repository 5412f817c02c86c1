"""Plan of Hugging Face FP8 -> Hugging Face with dequantised weights, for models of any architecture.

What is FP8 the files themselves say, so that no weight map is needed; every other tensor goes along bit for bit. The
files keep their names, and what the files named, in their order.
"""

from collections.abc import Mapping
from pathlib import Path

from mindrl.checkpoint.byte_plan import FP8, CopyPlan, StoredTensor, Tile
from mindrl.checkpoint.conversion.mcore_to_hf import HfPlan
from mindrl.checkpoint.formats.safetensors_files import Planned, lay_out, lay_out_as
from mindrl.errors import RequestError


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
