"""Proof of a copy plan, always carried out before the first byte is written.

Proved is: every value of every source goes to exactly one place (or is dropped by name), no two sources share a byte of
a file, every value of every record comes from exactly one place, and every byte of every output file is written
exactly once. A record that repeats another one under a second key is made of the same values, which count once.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

from mindrl.checkpoint.byte_plan import CopyPlan, OutputFile, Record, StoredTensor, Tile

Rectangle = tuple[int, int, int, int]
"""(row, column, number of rows, number of columns)"""


class PlanError(Exception):
    """A plan that would lose, repeat or misplace bytes: a fault of whoever planned, found before anything is copied."""


def prove(plan: CopyPlan) -> None:
    """Raise `PlanError` unless everything is used once and written once."""
    used: dict[StoredTensor, list[Rectangle]] = defaultdict(list)
    records = _records_by_name(plan)
    _require_unique(file.name for file in plan.files)
    for file in plan.files:
        _prove_file(file)
        for record in file.records:
            check_cover(record.name, (record.rows, record.columns), map(_target_rectangle, record.tiles))
            if record.same_as:
                _prove_repetition(record, records)
                continue
            for tile in record.tiles:
                used[tile.source].append(_source_rectangle(tile))
    for tile in plan.dropped:
        used[tile.source].append(_source_rectangle(tile))
    if different := used.keys() ^ set(plan.sources):
        raise PlanError(
            f"{min(source.name for source in different)}: a tensor that the plan forgets or does not know"
        )
    for source, rectangles in used.items():
        check_cover(source.name, (source.rows, source.columns), rectangles)
    _prove_sources_apart(plan.sources)


def check_cover(name: str, shape: tuple[int, int], rectangles: Iterable[Rectangle]) -> None:
    """`PlanError` unless the rectangles fill the matrix without gap or overlap, in bands of equal rows."""
    ordered = sorted(rectangles, key=lambda r: (r[0], r[2], r[1]))
    next_row = 0
    for (row, num_rows), band in groupby(ordered, key=lambda r: (r[0], r[2])):
        if row != next_row or num_rows < 1:
            raise PlanError(f"{name}: rows {min(row, next_row)} to {max(row, next_row)} not exactly once")
        next_row = row + num_rows
        _check_line(f"{name}, rows from {row}", shape[1], [(r[1], r[3]) for r in band])
    if next_row != shape[0]:
        raise PlanError(f"{name}: rows end at {next_row} of {shape[0]}")


def _check_line(name: str, length: int, spans: Sequence[tuple[int, int]]) -> None:
    """Sorted (start, length) spans fill 0 .. length without gap or overlap."""
    position = 0
    for start, size in spans:
        if start != position or size < 1:
            raise PlanError(f"{name}: {min(start, position)} to {max(start, position)} not exactly once")
        position = start + size
    if position != length:
        raise PlanError(f"{name}: filled up to {position} of {length}")


def _prove_file(file: OutputFile) -> None:
    spans = [(offset, len(data)) for offset, data in file.literals]
    for record in file.records:
        head, tail = (record.envelope.head_size, record.envelope.tail_size) if record.envelope else (0, 0)
        spans.append((record.offset - head, head + record.num_bytes + tail))
    _check_line(file.name, file.size, sorted(spans))


def _prove_repetition(record: Record, records: dict[str, Record]) -> None:
    original = records.get(record.same_as)
    if original is None:
        raise PlanError(f"{record.name} repeats {record.same_as}, which the plan does not write")
    if (record.rows, record.columns, record.dtype, record.tiles) != (
        original.rows,
        original.columns,
        original.dtype,
        original.tiles,
    ):
        raise PlanError(f"{record.name} should repeat {record.same_as}, and is made of other values")


def _prove_sources_apart(sources: Sequence[StoredTensor]) -> None:
    """No byte of a file belongs to two sources, scales included."""
    spans: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for source in sources:
        for tensor in (source, source.scales) if source.scales is not None else (source,):
            spans[str(tensor.path)].append((tensor.offset, tensor.offset + tensor.num_bytes, tensor.name))
    for path, in_file in spans.items():
        in_file.sort()
        for (_, end, name), (start, _, next_name) in pairwise(in_file):
            if start < end:
                raise PlanError(f"{path}: {name} and {next_name} share bytes {start} to {end}")


def _records_by_name(plan: CopyPlan) -> dict[str, Record]:
    """Records that are no repetition."""
    originals = [record for file in plan.files for record in file.records if not record.same_as]
    _require_unique(record.name for record in originals)
    return {record.name: record for record in originals}


def _require_unique(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"{name}: twice in the plan")
        seen.add(name)


def _source_rectangle(tile: Tile) -> Rectangle:
    return tile.source_row, tile.source_column, tile.num_rows, tile.num_columns


def _target_rectangle(tile: Tile) -> Rectangle:
    return tile.row, tile.column, tile.num_rows, tile.num_columns
