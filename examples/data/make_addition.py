"""Write a data set of one-digit sums that keeps some pairs of digits out of training.

    python examples/data/make_addition.py --output-dir outputs/smollm2_135m/data

writes `train.jsonl` and `heldout.jsonl` with rows such as `{"prompt": "4+8", "answer": "12"}`. `4+8` and `8+4` count
as one pair and go to the same file; the pairs that the template's worked examples show go to neither. The same seed
gives the same files.
"""

import argparse
import random
from itertools import combinations_with_replacement
from pathlib import Path

from make_sort_digits import write_jsonl

SHOWN = {(2, 3), (6, 9)}
"""Pairs in the worked examples of configs/model/addition_few_shot.json."""
PAIRS = sorted(set(combinations_with_replacement(range(10), 2)) - SHOWN)

Pair = tuple[int, int]


def split(heldout: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs to evaluate on, the latter `heldout` of them, drawn at random."""
    chosen = set(random.Random(seed).sample(PAIRS, heldout))
    return [pair for pair in PAIRS if pair not in chosen], sorted(chosen)


def make_rows(pairs: list[Pair]) -> list[dict[str, str]]:
    """Both orders of every pair, once each."""
    ordered = sorted({order for a, b in pairs for order in ((a, b), (b, a))})
    return [{"prompt": f"{a}+{b}", "answer": str(a + b)} for a, b in ordered]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--heldout", type=int, default=13, help="pairs to evaluate on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not 0 < args.heldout < len(PAIRS):
        parser.error(
            f"--heldout {args.heldout}: expected 1 to {len(PAIRS) - 1}, as there are {len(PAIRS)} pairs"
        )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, pairs in zip(("train", "heldout"), split(args.heldout, args.seed), strict=True):
        rows = make_rows(pairs)
        write_jsonl(args.output_dir / f"{name}.jsonl", rows)
        print(f"{args.output_dir / name}.jsonl: {len(pairs)} pairs, {len(rows)} prompts")


if __name__ == "__main__":
    main()
