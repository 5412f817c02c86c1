"""FP8 (e4m3) values times their blocks' scales, at a few gigabytes a second and thread.

Every e4m3 value is a float16 value times 2^8, and its bits are float16's at another place: sign to bit 15, exponent and
mantissa to bit 7. So values are shifted into place, widened to float32 and multiplied by 2^8 times the scale, in parts
that stay in the processor's cache. Both factors are exact, so that the product is rounded once, as that of value and
scale is: the result has the bits of `(values.float() * scales).to(bfloat16)`.
"""

import numpy as np
import numpy.typing as npt
import torch

from mindrl.checkpoint.byte_plan import ITEM_SIZES, StoredTensor
from mindrl.checkpoint.formats.fp8_blocks import BLOCK
from mindrl.errors import RequestError

_NAN = 0x7F
"""Without its sign; e4m3 has no other code that is no number, and no infinity."""
_SHIFT = 7
_SIGN_EXPONENT_MANTISSA = -0x8000 | 0x3F80
_LARGEST_SCALES = {"bfloat16": 2.0**119, "float32": 2.0**119, "float16": 2.0**7}
"""Below it no product leaves the type's range (e4m3 ends at 448), nor does the scale times 2^8 leave float32's."""
_VALUES_AT_ONCE = 1 << 19
"""Nine bytes each, so that they stay in the cache."""

Bytes2d = npt.NDArray[np.uint8]


def blocks_of(first_row: int, num_rows: int) -> tuple[int, int]:
    """(first, number) of the rows of blocks that rows of a tensor lie in: those of its scales."""
    first = first_row // BLOCK
    return first, (first_row + num_rows - 1) // BLOCK + 1 - first


def dequantized(
    raw: Bytes2d,
    raw_scales: Bytes2d,
    source: StoredTensor,
    first_row: int,
    first_column: int,
    dtype: str = "bfloat16",
    out: Bytes2d | None = None,
) -> torch.Tensor:
    """Values of a rectangle of `source`, as `dtype` ("bfloat16", "float32" or "float16").

    `raw` [rows, columns] are its codes, from `first_row` and `first_column` of the tensor on; `raw_scales` the bytes of
    `blocks_of` these rows [rows of blocks, bytes of a row of scales]. The result [rows, columns] lies in `out` [rows,
    bytes of a row] where there is one.
    Raises `RequestError` for a code or a scale that is no number, and for a product out of range."""
    rows, columns = raw.shape
    if out is None:
        out = np.empty((rows, columns * ITEM_SIZES[dtype]), np.uint8)
    result = torch.from_numpy(out).view(getattr(torch, dtype))
    if not raw.size:
        return result
    scales = _finite_scales(raw_scales, source, first_row)
    if scales.abs().max() >= _LARGEST_SCALES[dtype]:
        return _by_definition(raw, source, first_row, first_column, scales, result)
    factors = (scales * 2.0**8)[:, _blocks(first_column, columns)]
    codes = torch.from_numpy(raw.view(np.int8))
    rows_at_once = max(1, min(BLOCK, _VALUES_AT_ONCE // columns))
    halves = torch.empty(rows_at_once, columns, dtype=torch.int16)
    singles = torch.empty(rows_at_once, columns)
    start = 0
    while start < rows:
        block, row_in_block = divmod(first_row % BLOCK + start, BLOCK)
        end = min(start + rows_at_once, rows, start + BLOCK - row_in_block)
        _require_numbers(raw[start:end], source, first_row + start, first_column)
        half, single = halves[: end - start], singles[: end - start]
        half.copy_(codes[start:end]).bitwise_left_shift_(_SHIFT).bitwise_and_(_SIGN_EXPONENT_MANTISSA)
        single.copy_(half.view(torch.float16)).mul_(factors[block])
        result[start:end].copy_(single)
        start = end
    return result


def _by_definition(
    raw: Bytes2d,
    source: StoredTensor,
    first_row: int,
    first_column: int,
    scales: torch.Tensor,
    result: torch.Tensor,
) -> torch.Tensor:
    """Where products may leave the range: slow, and looks whether they do."""
    rows, columns = raw.shape
    _require_numbers(raw, source, first_row, first_column)
    factors = scales[_blocks(first_row, rows) - first_row // BLOCK][:, _blocks(first_column, columns)]
    result.copy_(torch.from_numpy(raw).view(torch.float8_e4m3fn).float() * factors)
    if not result.isfinite().all():
        dtype = str(result.dtype).removeprefix("torch.")
        remedy = "choose --params-dtype bf16 or fp32" if dtype == "float16" else "the file must be damaged"
        raise RequestError(
            f"{source.name} in {source.path}: its scales of up to {scales.abs().max():g} take values out of range for "
            f"{dtype}: {remedy}."
        )
    return result


def _blocks(first: int, count: int) -> torch.Tensor:
    """Number of the block that each of `count` places, from `first` on, lies in."""
    return torch.arange(first, first + count) // BLOCK


def _require_numbers(codes: Bytes2d, source: StoredTensor, first_row: int, first_column: int) -> None:
    magnitudes = codes & _NAN
    if magnitudes.max() == _NAN:
        row, column = np.argwhere(magnitudes == _NAN)[0]
        raise RequestError(
            f"{source.name} in {source.path} holds NaN at row {first_row + row}, column {first_column + column}: the "
            "file is damaged. Fetch it again."
        )


def _finite_scales(raw: Bytes2d, source: StoredTensor, first_row: int) -> torch.Tensor:
    """float32 [rows of blocks, blocks of columns]; a number each, or a `RequestError`."""
    scales = source.scales
    assert scales is not None, f"{source.name} is FP8 without scales"
    values = torch.from_numpy(raw).view(getattr(torch, scales.dtype)).float()
    if not values.isfinite().all():
        row, column = divmod(int(values.isfinite().flatten().int().argmin()), scales.columns)
        raise RequestError(
            f"{scales.name} in {scales.path} holds {values[row, column].item()} at row {first_row // BLOCK + row}, column "
            f"{column}: the file is damaged. Fetch it again."
        )
    return values
