"""Tensor by tensor, bit by bit, in pieces: bounded memory whatever the model's size."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mindrl.checkpoint.byte_plan import FP8, ITEM_SIZES
from mindrl.checkpoint.comparison.sides import (
    EMBEDDING,
    OUTPUT_LAYER,
    Described,
    Side,
    open_side,
)
from mindrl.weight_maps import weight_map

PIECE_BYTES = 8 << 20
"""Of each side, in each thread, as float32."""
ROTARY_BUFFER = "rotary_emb.inv_freq"
"""Old Llama files hold this; it is computed, not learned."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of one side."""

    value: float
    path: Path
    byte: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor that both sides have, and that is not the same."""

    name: str
    left: Described
    right: Described
    num_different: int = 0
    """Values whose bits differ; 0 where the shapes already do."""
    max_abs: float = 0.0
    """Largest difference of two values; NaN where one of the two is no number."""
    index: tuple[int, ...] = ()
    """Of the first value that differs."""
    first: tuple[Value, Value] | None = None
    """The first values that differ."""


@dataclass(frozen=True)
class Comparison:
    """What was found."""

    left: Side
    right: Side
    num_equal: int
    """Tensors that are the same bit for bit."""
    num_bytes: int
    """Of the tensors that were compared, as the right side stores them."""
    converted: dict[tuple[str, str], int]
    """How many tensors were stored as (left's type, right's type)."""
    different: tuple[Difference, ...]
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Same names, shapes and, after conversion where types differ, bits."""
        return not (self.different or self.only_left or self.only_right)


def compare(
    left: Path,
    right: Path,
    *,
    hf_dir: Path | None = None,
    keep_mtp: bool | None = None,
    workers: int = 2,
    advance: Callable[[int], None] = lambda _: None,
    expect: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Compare two directories; `left` is the one that `right` was made from, where one was.

    Where types differ, values of the left are converted to the right's type first, as a conversion does it: FP8 times
    its scales, other types rounded to the nearest. `advance` hears of bytes compared, `expect` of how many there are.
    Raises `RequestError` for what can't be read."""
    with ExitStack() as stack:
        a = stack.enter_context(closing(open_side(left, right, hf_dir, keep_mtp=keep_mtp)))
        b = stack.enter_context(closing(open_side(right, left, hf_dir, keep_mtp=keep_mtp)))
        notes: list[str] = []
        in_a, in_b = (
            _names(a, b, keep_mtp=keep_mtp, notes=notes),
            _names(b, a, keep_mtp=keep_mtp, notes=notes),
        )
        pairs = [
            _Pair(name, a.tensors[in_a[name]], b.tensors[in_b[name]], in_a[name], in_b[name])
            for name in in_b
            if name in in_a
        ]
        expect(sum(pair.num_bytes for pair in pairs))
        stack.enter_context(_one_torch_thread())
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        differences = [_compare_tensor(pair, a, b, pool, advance) for pair in pairs]
        different = tuple(difference for difference in differences if difference is not None)
        return Comparison(
            left=a,
            right=b,
            num_equal=len(pairs) - len(different),
            num_bytes=sum(pair.num_bytes for pair in pairs),
            converted=Counter((p.left.dtype, p.right.dtype) for p in pairs if p.left.dtype != p.right.dtype),
            different=different,
            only_left=tuple(name for name in in_a if name not in in_b),
            only_right=tuple(name for name in in_b if name not in in_a),
            notes=tuple(notes),
        )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A tensor that both sides have."""

    name: str
    left: Described
    right: Described
    name_left: str
    """What the left side calls it: a tied output layer is its embedding."""
    name_right: str

    @property
    def dtype(self) -> str:
        """In which values are compared."""
        if self.right.dtype != FP8:
            return self.right.dtype
        return "float32" if self.left.dtype == FP8 else "bfloat16"

    @property
    def num_bytes(self) -> int:
        return self.right.rows * self.right.columns * ITEM_SIZES[self.right.dtype]


def _names(side: Side, other: Side, *, keep_mtp: bool | None, notes: list[str]) -> dict[str, str]:
    """The tensors of a side that matter, and what it calls them; what is left out, and why, goes to `notes`."""
    names = {name: name for name in side.tensors if not name.endswith(ROTARY_BUFFER)}
    arch = side.architecture
    if arch is None:
        return names
    if keep_mtp is False or not other.has_mtp:
        leaves_out = weight_map(arch).leaves_out
        if left_out := [name for name in names if leaves_out(name)]:
            notes.append(
                f"{side.path}: {len(left_out)} tensors of layers for multi-token prediction, which the other side "
                "does not have on purpose, are left out."
            )
            for name in left_out:
                del names[name]
    copies = dict(weight_map(arch, side.has_mtp).copies)
    if arch.tied_embeddings:
        copies[OUTPUT_LAYER] = EMBEDDING
    for copy, original in copies.items():
        if copy not in names and original in names and copy in other.tensors:
            notes.append(f"{side.path}: {copy} is not stored, it is {original}.")
            names[copy] = original
    return names


def _compare_tensor(
    pair: _Pair, a: Side, b: Side, pool: ThreadPoolExecutor, advance: Callable[[int], None]
) -> Difference | None:
    if pair.left.shape != pair.right.shape:
        advance(pair.num_bytes)
        return Difference(pair.name, pair.left, pair.right)
    rows, row_bytes = pair.right.rows, max(1, pair.num_bytes // pair.right.rows)
    step = max(1, PIECE_BYTES // (4 * max(1, pair.right.columns)))
    starts = range(0, rows, step)
    found: list[_PieceDifference] = []
    pieces = pool.map(lambda first: _compare_rows(pair, a, b, first, min(step, rows - first)), starts)
    for first, difference in zip(starts, pieces, strict=True):
        advance(min(step, rows - first) * row_bytes)
        if difference is not None:
            found.append(difference)
    if not found:
        return None
    first = found[0]
    column = np.unravel_index(first.column, pair.right.shape[1:]) if len(pair.right.shape) > 1 else ()
    return Difference(
        pair.name,
        pair.left,
        pair.right,
        num_different=sum(difference.num_different for difference in found),
        max_abs=float(np.max([difference.max_abs for difference in found])),  # not a number, if one is
        index=(first.row, *(int(number) for number in column)),
        first=(
            Value(first.left, *a.place(pair.name_left, first.row, first.column)),
            Value(first.right, *b.place(pair.name_right, first.row, first.column)),
        ),
    )


@dataclass(frozen=True, slots=True)
class _PieceDifference:
    num_different: int
    max_abs: float
    row: int
    column: int
    left: float
    right: float


def _compare_rows(pair: _Pair, a: Side, b: Side, first: int, count: int) -> _PieceDifference | None:
    dtype: torch.dtype = getattr(torch, pair.dtype)
    left = a.values(pair.name_left, first, count, dtype)
    right = b.values(pair.name_right, first, count, dtype)
    if torch.equal(_bits(left), _bits(right)):
        return None
    differs = _bits(left) != _bits(right)
    gaps = (left.double() - right.double()).abs()[differs]
    row, column = divmod(int(differs.flatten().to(torch.uint8).argmax()), pair.right.columns)
    return _PieceDifference(
        num_different=int(differs.sum()),
        max_abs=float(gaps.max()),
        row=first + row,
        column=column,
        left=float(left[row, column]),
        right=float(right[row, column]),
    )


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32 if values.element_size() == 4 else torch.int16)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """The pool's threads are enough."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
