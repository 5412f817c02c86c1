"""Whether two sets of tiles hold the same values, byte for byte."""

import hashlib
from collections.abc import Sequence

from mindrl.checkpoint.byte_plan import Record, StoredTensor, Tile
from mindrl.checkpoint.conversion.copying import SourceFiles, pieces


def same_bytes(left: Sequence[Tile], right: Sequence[Tile]) -> bool:
    """Compare two matrices that are put together from tiles, each read once in pieces."""
    a, b = _record(left), _record(right)
    if (a.rows, a.columns, a.dtype) != (b.rows, b.columns, b.dtype):
        return False
    return _digest(a) == _digest(b)


def whole_tile(tensor: StoredTensor, row: int = 0, column: int = 0) -> Tile:
    """All of a stored tensor, placed at a row and a column."""
    return Tile(tensor, 0, 0, row, column, tensor.rows, tensor.columns)


def _record(tiles: Sequence[Tile]) -> Record:
    rows = max(tile.row + tile.num_rows for tile in tiles)
    columns = max(tile.column + tile.num_columns for tile in tiles)
    return Record(tiles[0].source.name, 0, rows, columns, tiles[0].source.dtype, tuple(tiles))


def _digest(record: Record) -> bytes:
    digest, sources = hashlib.blake2b(), SourceFiles()
    try:
        for _, piece in pieces(record, sources):
            digest.update(piece.data)
    finally:
        sources.close()
    return digest.digest()
