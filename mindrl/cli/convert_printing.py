"""What `mindrl convert` prints: the outcome, or what a dry run has found."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mindrl.cli.check_weights import Checked

if TYPE_CHECKING:
    from mindrl.checkpoint.conversion.convert import Conversion
    from mindrl.checkpoint.conversion.estimate import Estimate, Share


def print_conversion(
    result: "Conversion", notes: Sequence[str], seconds: float, checked: Checked | None, *, as_json: bool
) -> None:
    """On stdout, for people or as one JSON object; `checked`: what comparing source and result has found."""
    outcome = result.outcome
    said = {
        "output": str(result.output),
        "complete": outcome.complete,
        "family": result.family,
        "dtype": result.dtype,
        "num_parameters": result.num_parameters,
        "num_bytes": result.num_bytes,
        "seconds": round(seconds, 3),
        "bytes_moved": outcome.bytes_moved,
        "bytes_moved_lower_bound": outcome.lower_bound,
    }
    all_notes = [*notes, *result.notes]
    if as_json:
        print(
            json.dumps(
                said
                | {"notes": all_notes}
                | ({"dry_run": _as_json(outcome.estimate)} if outcome.estimate else {})
                | ({"check": checked.outcome} if checked else {})
            )
        )
        return
    for note in all_notes:
        print(f"note: {note}")
    size = f"{result.family}: {result.num_parameters:,} parameters as {result.dtype}"
    if outcome.estimate is not None:
        print("\n".join([size, *_plan_lines(outcome.estimate)]))
        return
    place = f"-> {result.output}" if outcome.complete else f"for {result.output}, not yet joined"
    print(f"{size} ({_amount(result.num_bytes)}) in {seconds:.1f} s {place}")
    print(f"bytes moved: {outcome.bytes_moved:,}, at least needed: {outcome.lower_bound:,}")
    if checked is not None:
        print(checked.text)


def _as_json(estimate: "Estimate") -> dict[str, Any]:
    shares = {"total": estimate.total, **{f"shard {i}": share for i, share in enumerate(estimate.shares)}}
    return asdict(estimate) | {
        "seconds": {name: round(share.seconds, 1) for name, share in shares.items()},
        "assumed_bytes_per_second": estimate.bytes_per_second,
    }


def _plan_lines(estimate: "Estimate") -> Iterator[str]:
    total = estimate.total
    yield (
        f"dry run, nothing written: {estimate.num_tensors:,} tensors become {total.num_records:,} in "
        f"{_files(total.num_files)}"
    )
    yield (
        f"bytes to be moved at least: {total.lower_bound:,} (read {total.bytes_to_read:,}, "
        f"written {total.bytes_to_write:,})"
    )
    yield f"peak memory of a process: about {estimate.peak_bytes / 2**20:,.0f} MiB with {estimate.workers} workers"
    room = "enough" if estimate.free_bytes > total.bytes_to_write else "too little"
    yield f"disk: {_amount(estimate.free_bytes)} free, {room}"
    rate = f"{estimate.bytes_per_second / 1e9:g} GB/s"
    yield f"time: about {_duration(total)} on one host, if it writes {rate} while it reads"
    yield f"divided over {len(estimate.shares)} hosts, with --num-shards {len(estimate.shares)}:"
    for index, share in enumerate(estimate.shares):
        yield f"  --shard-index {index}: {_share(share)}"


def _share(share: "Share") -> str:
    if not share.num_files:
        return "nothing to do"
    return (
        f"{_files(share.num_files)}, {_amount(share.bytes_to_write)} written, {_amount(share.bytes_to_read)} read, "
        f"about {_duration(share)}"
    )


def _files(count: int) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}"


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _duration(share: "Share") -> str:
    seconds = share.seconds
    return f"{seconds / 60:,.0f} min" if seconds >= 120 else f"{seconds:,.1f} s"
