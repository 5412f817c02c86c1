"""Write the quick start's data set: sort four different digits.

    python examples/data/make_sort_digits.py --output-dir outputs/quickstart/data

writes `train.jsonl` and `heldout.jsonl` with rows such as `{"prompt": "sort 3041: ", "answer": "0134"}`. Every
prompt occurs once, so the two files have none in common. The same seed gives the same files.
"""

import argparse
import json
import os
import random
from collections.abc import Sequence
from itertools import permutations
from math import perm
from pathlib import Path
from string import digits

NUM_DIGITS = 4
NUM_PROMPTS = perm(len(digits), NUM_DIGITS)


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """`count` different prompts with their answers, in random order."""
    chosen = random.Random(seed).sample(list(permutations(digits, NUM_DIGITS)), count)
    return [{"prompt": f"sort {''.join(text)}: ", "answer": "".join(sorted(text))} for text in chosen]


def write_jsonl(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write beside the final place and rename, so that no half-written file is ever found there."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--train", type=int, default=4096, help="prompts to train on (default: %(default)s)")
    parser.add_argument(
        "--heldout", type=int, default=512, help="prompts to evaluate on (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.train < 1 or args.heldout < 1 or args.train + args.heldout > NUM_PROMPTS:
        parser.error(
            f"--train {args.train} and --heldout {args.heldout}: both must be positive, and there are only "
            f"{NUM_PROMPTS} prompts of {NUM_DIGITS} different digits"
        )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    rows = make_rows(args.train + args.heldout, args.seed)
    for name, part in (("train", rows[: args.train]), ("heldout", rows[args.train :])):
        write_jsonl(args.output_dir / f"{name}.jsonl", part)
        print(f"{args.output_dir / name}.jsonl: {len(part)} prompts")


if __name__ == "__main__":
    main()
