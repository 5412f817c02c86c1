"""`mindrl preprocess`."""

import argparse
from pathlib import Path

SUMMARY = "turn a raw data set into prompts as token ids"
EXAMPLE = """
mindrl preprocess configs/datasets/gsm8k.yaml
mindrl preprocess configs/datasets/gsm8k.yaml input=data/gsm8k/test.jsonl output_prefix=outputs/data/gsm8k_test
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml", help="see docs/data.md for its keys")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="replaces a key of the yaml"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")
    parser.add_argument("--json", action="store_true", help="print the facts of the data set as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the data set and say what became of its rows."""
    import json

    from mindrl.config.loading import load_section
    from mindrl.data.preprocess import preprocess
    from mindrl.data.preprocess_config import PreprocessConfig
    from mindrl.data.prompt_file import facts_path

    config = load_section(PreprocessConfig, args.config, args.overrides)
    facts = preprocess(config, overwrite=args.overwrite)
    if args.json:
        print(json.dumps(facts))
        return 0
    dropped = ", ".join(f"{count} {reason}" for reason, count in facts["dropped"].items() if count)
    length = facts["prompt_length"]
    named = f"; {facts_path(config.output)} names the first of each" if dropped else ""
    print(
        f"{config.output}: {facts['num_prompts']} prompts from {facts['num_rows']} rows "
        f"(dropped: {dropped or 'none'}{named}); {length['min']} to {length['max']} tokens, mean {length['mean']:.1f}"
    )
    return 0
