"""`mindrl convert --check`: whether weights are those that they were made from, or as they were written."""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindrl.errors import RequestError

if TYPE_CHECKING:
    from mindrl.checkpoint.comparison.compare import Comparison, Difference, Value
    from mindrl.checkpoint.comparison.recorded import Verification
    from mindrl.checkpoint.conversion.convert import Conversion

SAME = 0
DIFFERENT = 1
WORKERS = 2
MOST_SHOWN = 10
CONVERTING = (
    "load_dir", "save_dir", "load_model_type", "save_model_type", "from_fp8", "params_dtype", "overwrite", "dry_run", "join",
    "max_shard_size", "tokenizer_model",
)  # fmt: skip
"""Flags that say what to convert, and how."""


@dataclass(frozen=True)
class Checked:
    """What a check has found."""

    outcome: dict[str, Any]
    """Everything, for machines."""
    text: str
    same: bool

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return SAME if self.same else DIFFERENT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `mindrl convert` that check."""
    add = parser.add_argument_group("comparing").add_argument
    add(
        "--check",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="DIR: is it as the conversion wrote it, by its recorded checksums. A B: is B what A was converted to, "
        "tensor by tensor (each a Hugging Face directory or a Megatron checkpoint). With a conversion and no DIR: compare "
        "source and result afterwards, and a checkpoint with the checksums in it. Exit code 0: the same, 1: not",
    )
    add(
        "--check-logits",
        action="store_true",
        help="also run both models on the same random tokens and compare what they predict; for small models",
    )


def is_asked_for(args: argparse.Namespace) -> bool:
    """Whether the request is to check what is there already, and not to convert."""
    if not args.check:
        return False
    if given := [f"--{name.replace('_', '-')}" for name in CONVERTING if getattr(args, name)]:
        raise RequestError(
            f"--check with directories compares what is there and converts nothing: leave out {', '.join(given)}, or leave "
            "the directories out to compare source and result of a conversion."
        )
    if len(args.check) > 2:
        raise RequestError(
            f"--check was given {len(args.check)} directories: it takes one, or two to compare."
        )
    if len(args.check) == 1 and args.check_logits:
        raise RequestError(
            "--check-logits compares two models: name the other one too, as in --check A B --check-logits."
        )
    return True


def run(args: argparse.Namespace) -> int:
    """Answer `--check DIR` or `--check A B`; exit code."""
    start = time.monotonic()
    found = _verify(args, args.check[0]) if len(args.check) == 1 else _compare(args, *args.check)
    seconds = round(time.monotonic() - start, 3)
    print(json.dumps(found.outcome | {"seconds": seconds}) if args.json else found.text)
    return found.exit_code


def after_conversion(args: argparse.Namespace, result: "Conversion") -> Checked | None:
    """Compare source and result where that was asked for and there is one; a checkpoint that was converted also with
    the checksums in its own archives, as a bit that has changed there would be changed in the result too."""
    if (args.check is None and not args.check_logits) or not result.outcome.complete:
        return None
    compared = _compare(args, args.load_dir, result.output)
    if args.load_model_type != "mg":
        return compared
    source = _verify(args, args.load_dir)
    return Checked(
        compared.outcome | {"source": source.outcome},
        f"{source.text}\n{compared.text}",
        source.same and compared.same,
    )


def _compare(args: argparse.Namespace, left: Path, right: Path) -> Checked:
    """The weights, and with `--check-logits` the logits too."""
    from mindrl.checkpoint.comparison.compare import compare

    keep_mtp = {"keep": True, "drop": False, None: None}[args.mtp]
    with _progress("check") as bar:
        found = compare(
            left, right, hf_dir=args.hf_dir, keep_mtp=keep_mtp, workers=args.workers or WORKERS, **bar
        )
    weights = Checked(comparison_as_json(found), comparison_text(found), found.equal)
    if not args.check_logits:
        return weights
    with warnings.catch_warnings():
        # Megatron-core and torch warn of each other, and of packages that the HAL's kernels stand in for.
        warnings.filterwarnings("ignore", module=r"(megatron|torch)\.")
        from mindrl.cli.check_logits import check_logits

        logits = check_logits(found.left, found.right)
    same = weights.same and logits.within
    return Checked(
        weights.outcome | {"equal": same, "logits": logits.as_json()},
        f"{weights.text}\n{logits.text()}",
        same,
    )


def _verify(args: argparse.Namespace, directory: Path) -> Checked:
    from mindrl.checkpoint.comparison.recorded import verify

    with _progress("check") as bar:
        found = verify(directory, workers=args.workers or WORKERS, **bar)
    return Checked(verification_as_json(found), verification_text(found), not found.damage)


def comparison_as_json(found: "Comparison") -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "equal": found.equal,
        "left": str(found.left.path),
        "right": str(found.right.path),
        "num_equal": found.num_equal,
        "num_bytes": found.num_bytes,
        "converted": [
            {"left": left, "right": right, "num_tensors": count}
            for (left, right), count in found.converted.items()
        ],
        "different": [_difference_as_json(difference) for difference in found.different],
        "only_left": list(found.only_left),
        "only_right": list(found.only_right),
        "notes": list(found.notes),
    }


def _difference_as_json(difference: "Difference") -> dict[str, Any]:
    content: dict[str, Any] = {"name": difference.name}
    for side, described in (("left", difference.left), ("right", difference.right)):
        content[side] = {"shape": list(described.shape), "dtype": described.dtype}
    if difference.first is None:
        return content
    for side, value in zip(("left", "right"), difference.first, strict=True):
        content[side] |= {"value": _number(value.value), "file": str(value.path), "byte": value.byte}
    return content | {
        "index": list(difference.index),
        "num_different": difference.num_different,
        "max_abs": _number(difference.max_abs),
    }


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)


def comparison_text(found: "Comparison") -> str:
    """The report, in words."""
    lines = [f"A  {found.left.path} ({found.left.kind})", f"B  {found.right.path} ({found.right.kind})"]
    lines += [f"note: {note}" for note in found.notes]
    lines += [
        f"note: {count} tensors are {left} in A and {right} in B: compared after converting A's values, as a conversion "
        "does."
        for (left, right), count in found.converted.items()
    ]
    missing = [f"only in A: {name}" for name in found.only_left]
    missing += [f"only in B: {name}" for name in found.only_right]
    details = [*missing, *map(_difference_text, found.different)]
    lines += [f"  {line}" for line in details[:MOST_SHOWN]]
    if len(details) > MOST_SHOWN:
        lines.append(f"  and {len(details) - MOST_SHOWN} more (all of them with --json)")
    size = f"{found.num_bytes / 1e6:,.1f} MB"
    if found.equal:
        lines.append(f"equal: {found.num_equal:,} tensors, {size}, bit for bit")
    else:
        lines.append(
            f"different: {len(found.different):,} tensors differ, {len(missing):,} are on one side only, "
            f"{found.num_equal:,} are equal ({size} compared)"
        )
        if found.converted and found.different:
            lines.append("If A was made from B and not B from A, ask for it so: --check B A.")
    return "\n".join(lines)


def _difference_text(difference: "Difference") -> str:
    if difference.first is None:
        return f"{difference.name}: A has the shape {difference.left.shape}, B {difference.right.shape}"
    left, right = difference.first
    values = math.prod(difference.right.shape)
    return (
        f"{difference.name}: {difference.num_different:,} of {values:,} values differ, by at most {difference.max_abs:g}; "
        f"first at {list(difference.index)}: A {_value_text(left)}, B {_value_text(right)}"
    )


def _value_text(value: "Value") -> str:
    return f"{value.value:.9g} ({value.path}, byte {value.byte})"


def verification_as_json(found: "Verification") -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "intact": not found.damage,
        "directory": str(found.directory),
        "by": found.by,
        "num_files": found.num_files,
        "num_checksums": found.num_checksums,
        "num_bytes": found.num_bytes,
        "damage": list(found.damage),
    }


def verification_text(found: "Verification") -> str:
    """The report, in words."""
    compared = (
        f"{found.num_checksums:,} checksums of {found.num_files:,} files, {found.num_bytes / 1e6:,.1f} MB "
        f"(by {found.by})"
    )
    if not found.damage:
        return f"intact: {found.directory}: {compared}"
    shown = [f"  {sentence}" for sentence in found.damage[:MOST_SHOWN]]
    if len(found.damage) > MOST_SHOWN:
        shown.append(f"  and {len(found.damage) - MOST_SHOWN} more (all of them with --json)")
    remedy = "Convert the weights again, or copy the files again from where they are whole."
    return "\n".join([f"damaged: {found.directory}: {compared}", *shown, remedy])


@contextmanager
def _progress(name: str) -> Iterator[dict[str, Callable[[int], None]]]:
    """A bar on a terminal, for `advance` and `expect`."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, desc=name, total=0, leave=False, disable=None) as bar:

        def expect(num_bytes: int) -> None:
            bar.reset(num_bytes)

        yield {"advance": bar.update, "expect": expect}
