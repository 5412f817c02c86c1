"""Safetensors files, read and laid out by their header only.

Format: u64 little-endian length of the header, the header (JSON: name -> dtype, shape, [start, end)), the data.
Source: https://huggingface.co/docs/safetensors
"""

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from mindrl.checkpoint.byte_plan import FP8, ITEM_SIZES, OutputFile, Record, StoredTensor, Tile
from mindrl.checkpoint.formats.fp8_blocks import attach_scales
from mindrl.errors import RequestError
from mindrl.files import POINTER_REASON, is_pointer, read_json_object

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F8_E4M3": FP8}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000
_REMEDY = "Fetch or copy the file again."


def read_model(hf_dir: Path) -> dict[str, StoredTensor]:
    """Every tensor of a Hugging Face model directory (one file, or many with an index), by name; FP8 with its scales."""
    tensors: dict[str, StoredTensor] = {}
    for path in _weight_files(hf_dir):
        for name, tensor in read_file(path).items():
            if name in tensors:
                raise RequestError(
                    f"Tensor {name} is in both {tensors[name].path} and {path}: files of two models may have "
                    "been mixed. Keep those of one."
                )
            tensors[name] = tensor
    return attach_scales(tensors)


def read_file(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one file; `RequestError` if header and file do not agree."""
    if not path.is_file():
        raise RequestError(f"{path} is not a file.")
    try:
        return _read_file(path)
    except OSError as error:
        raise RequestError(f"{path} can't be read: {error.strerror}.") from error


def _read_file(path: Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if is_pointer(path):
            raise RequestError(f"{path} {POINTER_REASON}")
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise RequestError(f"{path} is not a safetensors file, or is cut off: {size} bytes. {_REMEDY}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{path} has an unreadable safetensors header: {error}. {_REMEDY}") from None
    if not isinstance(header, dict):
        raise RequestError(f"{path} has an unreadable safetensors header: no object. {_REMEDY}")
    header.pop("__metadata__", None)
    try:
        tensors = {name: _stored(path, name, entry, 8 + length, size) for name, entry in header.items()}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path} has an unreadable safetensors header: {error!r}. {_REMEDY}") from error
    end = 8 + length
    for tensor in sorted((tensor for tensor in tensors.values() if tensor.num_bytes), key=lambda t: t.offset):
        if tensor.offset != end:
            raise RequestError(
                f"{path} is damaged: tensor {tensor.name} starts at byte {tensor.offset}, the one before ends at {end}. "
                f"{_REMEDY}"
            )
        end += tensor.num_bytes
    if end != size:
        raise RequestError(
            f"{path} is damaged: its last tensor ends at byte {end}, the file at {size}. {_REMEDY}"
        )
    return tensors


def _stored(path: Path, name: str, entry: Mapping[str, Any], data_start: int, file_size: int) -> StoredTensor:
    if entry["dtype"] not in _DTYPES:
        raise RequestError(
            f"Tensor {name} in {path} is stored as {entry['dtype']}: conversion reads {', '.join(_DTYPES)}."
        )
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise ValueError(f"{name} has the shape {shape} and lies from {start} to {end}")
    if not name.isprintable():
        raise ValueError(f"{name!r} is no name of a tensor")
    if end - start != prod(shape) * ITEM_SIZES[dtype]:
        raise RequestError(
            f"{path} is damaged: its header gives tensor {name} {end - start} bytes, and {dtype} {shape} takes "
            f"{prod(shape) * ITEM_SIZES[dtype]}. {_REMEDY}"
        )
    if data_start + end > file_size:
        raise RequestError(
            f"{path} is damaged or cut off: tensor {name} ({dtype} {shape}) should end at byte "
            f"{data_start + end}, the file has {file_size}. {_REMEDY}"
        )
    return StoredTensor(name, path, data_start + start, shape, dtype)


def _weight_files(hf_dir: Path) -> list[Path]:
    index_path = hf_dir / INDEX_NAME
    if index_path.exists():
        names = read_json_object(index_path).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise RequestError(f"{index_path} has no weight_map that names a file for each tensor.")
        _refuse_foreign_files(index_path, set(names.values()))
        files = [hf_dir / name for name in sorted(set(names.values()))]
        missing = [path.name for path in files if not path.exists()]
        if missing:
            raise RequestError(
                f"{index_path} names files that do not exist: {', '.join(missing)}. Fetch or copy them too."
            )
        return files
    if (hf_dir / SINGLE_NAME).exists():
        return [hf_dir / SINGLE_NAME]
    raise RequestError(
        f"{hf_dir} holds neither {SINGLE_NAME} nor {INDEX_NAME}. Weights in other formats (pytorch_model.bin) "
        "have to be saved as safetensors first: `save_pretrained` of transformers does."
    )


def _refuse_foreign_files(index_path: Path, names: set[str]) -> None:
    """An index is somebody else's text: it names files beside it, or none."""
    if foreign := sorted(repr(name) for name in names if not _is_plain(name)):
        raise RequestError(
            f"{index_path} names {', '.join(foreign)}: weights are read from files beside it, and from nowhere else. Correct "
            "the index."
        )
    if (index_path.parent / SINGLE_NAME).exists() and SINGLE_NAME not in names:
        raise RequestError(
            f"{index_path.parent} holds {SINGLE_NAME}, and {INDEX_NAME}, which names other files: one of the two is left "
            "over from something else, and programs differ in which they read. Remove the wrong one."
        )


def _is_plain(name: str) -> bool:
    """A file's name, without a path."""
    return name.isprintable() and name not in ("", ".", "..") and "/" not in name and len(name.encode()) < 256


Planned = tuple[str, tuple[int, ...], str, tuple[Tile, ...]]
"""A tensor to be written: name, shape, dtype, and what it is made of."""


def lay_out(
    tensors: Sequence[Planned], max_file_bytes: int
) -> tuple[tuple[OutputFile, ...], dict[str, Any] | None]:
    """Files of bounded size, in order, and the content of the index if there is more than one."""
    groups: list[list[Planned]] = [[]]
    filled = 0
    for tensor in tensors:
        num_bytes = prod(tensor[1]) * ITEM_SIZES[tensor[2]]
        if groups[-1] and filled + num_bytes > max_file_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += num_bytes
    if len(groups) == 1:
        return lay_out_as({SINGLE_NAME: groups[0]})
    names = (f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1))
    return lay_out_as(dict(zip(names, groups, strict=True)))


def lay_out_as(
    groups: Mapping[str, Sequence[Planned]],
) -> tuple[tuple[OutputFile, ...], dict[str, Any] | None]:
    """Files of these names with these tensors, and the content of the index unless it is one file that needs none."""
    files = tuple(_lay_out_file(name, group) for name, group in groups.items())
    if set(groups) == {SINGLE_NAME}:
        return files, None
    total = sum(prod(tensor[1]) * ITEM_SIZES[tensor[2]] for group in groups.values() for tensor in group)
    weight_map = {tensor[0]: name for name, group in groups.items() for tensor in group}
    return files, {"metadata": {"total_size": total}, "weight_map": weight_map}


def _lay_out_file(file_name: str, tensors: Sequence[Planned]) -> OutputFile:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, dtype, _ in tensors:
        start, end = end, end + prod(shape) * ITEM_SIZES[dtype]
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight bytes
    data_start = 8 + len(text)
    records = tuple(
        Record(
            name,
            offset=data_start + header[name]["data_offsets"][0],
            rows=shape[0] if shape else 1,
            columns=prod(shape[1:]),
            dtype=dtype,
            tiles=tuple(tiles),
        )
        for name, shape, dtype, tiles in tensors
        if prod(shape)  # of an empty tensor there is the header's entry only
    )
    return OutputFile(file_name, data_start + end, records, ((0, struct.pack("<Q", len(text)) + text),))
