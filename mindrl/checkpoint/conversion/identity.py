"""What decides every byte of a result: a conversion goes on only with files of the same identity."""

import hashlib
import json
import os
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import mindrl
from mindrl.checkpoint.byte_plan import CopyPlan

_PLACE = attrgetter("source_row", "source_column", "row", "column", "num_rows", "num_columns")


def identity_of(plan: CopyPlan, source: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: version, options, size and time of every source file, and a hash of the plan."""
    identity = {
        "mindrl": mindrl.__version__,
        "options": options,
        "sources": sources_of(plan, source),
        "plan": _digest(plan),
    }
    return json.loads(json.dumps(identity))


def sources_of(plan: CopyPlan, source: Path) -> dict[str, list[int]]:
    """[size, time] of every file that the plan reads, by its path from `source` on."""
    paths = {
        tensor.path for stored in plan.sources for tensor in (stored, stored.scales) if tensor is not None
    }
    stats = {os.path.relpath(path, source): path.stat() for path in sorted(paths)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two identities, in words."""
    reasons = {
        "options": "other options, {found}",
        "sources": "source files of other names, sizes or times",
        "mindrl": "another version of mindrl, {found}",
    }
    for key, reason in reasons.items():
        if found.get(key) != wanted.get(key):
            return reason.format(found=found.get(key))
    return "another plan"


def _digest(plan: CopyPlan) -> str:
    """SHA-256 over what is copied where."""
    digest = hashlib.sha256()
    for file in plan.files:
        digest.update(repr((file.name, file.size)).encode())
        for offset, data in file.literals:
            digest.update(b"%d %d " % (offset, len(data)) + data)
        for record in file.records:
            tiles = [
                (tile.source.name, tile.source.offset, tile.source.dtype, _PLACE(tile))
                for tile in record.tiles
            ]
            place = (record.name, record.offset, record.rows, record.columns, record.dtype)
            digest.update(repr((place, tiles)).encode())
    return digest.hexdigest()
