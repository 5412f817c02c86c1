"""Flags of `mindrl convert`: each is honoured, or answered with why it has no effect."""

import argparse
import re
from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import require_path, require_place_for
from mindrl.weight_maps import FAMILIES

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
MOST_WORKERS = 256
MOST_SHARDS = 10_000
"""Far above what gains anything."""
_UNITS = {
    prefix + unit: base**power
    for unit, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate(("K", "M", "G", "T"), start=1)
}


def add_conversion_flags(parser: argparse.ArgumentParser) -> None:
    """What is converted into what."""
    add = parser.add_argument_group("what is converted into what").add_argument
    add("--load-model-type", choices=("hf", "mg"), help="what --load-dir holds")
    add("--save-model-type", choices=("hf", "mg"), help="what --save-dir will hold")
    add(
        "--load-dir",
        type=Path,
        metavar="DIR",
        help="Hugging Face directory, or checkpoint directory (or one iteration's directory in it)",
    )
    add(
        "--save-dir",
        type=Path,
        metavar="DIR",
        help="new directory; for mg to hf, an existing Hugging Face directory is kept and gets a mg2hg/ inside",
    )
    add("--params-dtype", choices=tuple(DTYPES), help="type of the resulting weights (default: as they are)")
    add(
        "--mtp",
        choices=("keep", "drop"),
        help="take layers for multi-token prediction along, or leave them out; to be given for models that have them",
    )
    add(
        "--hf-dir",
        type=Path,
        metavar="DIR",
        help="mg to hf: config.json and tokenizer files (default: hf/ in the checkpoint directory)",
    )
    add(
        "--tokenizer-model",
        type=Path,
        metavar="PATH",
        help="tokenizer file or directory to store with the result instead of the model's own",
    )
    add(
        "--trust-remote-code",
        action="store_true",
        help="load the result's tokenizer, running its own Python code if it has any, to check it against the model; "
        "without it no code of a model is run, with it no other",
    )
    add(
        "--max-shard-size",
        type=_size,
        metavar="SIZE",
        help="mg to hf: largest file, such as 5GB or 800MiB (default: 5GB)",
    )
    add("--overwrite", action="store_true", help="replace an earlier result at --save-dir")
    add("--json", action="store_true", help="print the outcome as one JSON object")


def add_fp8_flags(parser: argparse.ArgumentParser) -> None:
    """The step from FP8 to bfloat16, and the flags that the script published with DeepSeek-V3 has for it."""
    add = parser.add_argument_group("FP8 to bfloat16, as a step of its own").add_argument
    add(
        "--from-fp8",
        action="store_true",
        help="make a Hugging Face directory in bfloat16 (or --params-dtype) out of one with FP8 in blocks of 128 x 128, "
        "of any architecture; no model type is needed. hf to mg reads FP8 itself, without this step",
    )
    add(
        "--input-fp8-hf-path",
        type=Path,
        dest="load_dir",
        action=_FromFp8,
        metavar="DIR",
        help="--from-fp8 --load-dir DIR",
    )
    add(
        "--output-bf16-hf-path",
        type=Path,
        dest="save_dir",
        action=_FromFp8,
        metavar="DIR",
        help="--from-fp8 --save-dir DIR",
    )


class _FromFp8(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        namespace.from_fp8 = True
        setattr(namespace, self.dest, values)


def add_established_flags(parser: argparse.ArgumentParser) -> None:
    """Those that the scripts in use pass."""
    add = parser.add_argument_group("established flags").add_argument
    add(
        "--target-tensor-parallel-size",
        type=positive,
        metavar="N",
        help="hf to mg: store weights in this many parts, which loads fastest at this size; loads at any "
        "(default: up to 8, by size)",
    )
    add(
        "--target-expert-tensor-parallel-size",
        type=positive,
        metavar="N",
        help="hf to mg: the same for each expert's weights (default: 1, as experts are rarely cut)",
    )
    add(
        "--target-pipeline-parallel-size",
        type=positive,
        metavar="N",
        help="no effect: layers are stored one by one, so that the checkpoint loads at any pipeline size",
    )
    add(
        "--target-expert-parallel-size",
        type=positive,
        metavar="N",
        help="no effect: experts are stored one by one, so that the checkpoint loads at any expert-parallel size",
    )
    add("--add-qkv-bias", action="store_true", help="checked against config.json, which decides")
    add("--model-type-hf", metavar="NAME", help="no effect: config.json decides the family")
    add("--model-type", default="GPT", choices=("GPT",), help="no effect: GPT is the only one")
    add("--use-mcore-models", action="store_true", help="no effect: always so")


def add_work_flags(parser: argparse.ArgumentParser) -> None:
    """How the work is done, and by how many."""
    add = parser.add_argument_group("how it is done, and by how many").add_argument
    add(
        "--allow-nan",
        action="store_true",
        help="copy weights that are not a number, instead of refusing them",
    )
    add("--workers", type=positive, metavar="N", help="threads that copy (default: one per core, 16 at most)")
    add(
        "--num-shards",
        type=positive,
        metavar="N",
        default=1,
        help="processes, on hosts that see the same directories, which each write a share of the files",
    )
    add(
        "--shard-index",
        type=_index,
        metavar="I",
        help="which of them this is, from 0; the last to end joins the files",
    )
    add(
        "--join",
        action="store_true",
        help="write no file, only join those of all shards; refused while any is missing",
    )
    add(
        "--dry-run",
        action="store_true",
        help="plan and prove from headers alone; print bytes, memory, time and the split over hosts; write nothing",
    )


def answers(args: argparse.Namespace) -> list[str]:
    """Why a flag that was given has no effect; refuses what can't be meant."""
    _refuse_bad_directions(args)
    _refuse_bad_division(args)
    to_megatron = args.load_model_type == "hf" and not args.from_fp8
    notes = _about_fp8(args) if args.from_fp8 else []
    if to_megatron and args.hf_dir is not None:
        raise RequestError("--hf-dir is for mg to hf; hf to mg reads config.json in --load-dir.")
    if to_megatron and args.max_shard_size is not None:
        notes.append("--max-shard-size has no effect: files of a Megatron checkpoint hold 4 GiB at most.")
    if not to_megatron:
        notes += [
            f"--target-{kind}-size has no effect: a Hugging Face model is stored whole."
            for kind in ("tensor-parallel", "expert-tensor-parallel")
            if getattr(args, f"target_{kind.replace('-', '_')}_size") is not None
        ]
    if args.target_pipeline_parallel_size is not None:
        notes.append(
            "--target-pipeline-parallel-size has no effect: layers are stored one by one and load at any size."
        )
    if args.target_expert_parallel_size is not None:
        notes.append(
            "--target-expert-parallel-size has no effect: experts are stored one by one and load at any size."
        )
    if args.model_type_hf is not None:
        notes.append(
            f"--model-type-hf has no effect: config.json decides the family ({', '.join(FAMILIES)})."
        )
    if args.workers is not None and args.join:
        notes.append("--workers has no effect: --join copies nothing.")
    return notes


def positive(text: str) -> int:
    """A positive whole number of an option."""
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive whole number")
    return int(text)


def _index(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0")
    return int(text)


def _size(text: str) -> int:
    """Bytes; the units are those that transformers takes."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]i?B)?", text, re.ASCII)
    size = int(float(found[1]) * (_UNITS[found[2]] if found[2] else 1)) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a size such as 5GB, 800MiB or 1000000")
    return size


def _about_fp8(args: argparse.Namespace) -> list[str]:
    """Flags without effect on `--from-fp8`."""
    if args.hf_dir is not None:
        raise RequestError("--hf-dir is for mg to hf; --from-fp8 reads config.json in --load-dir.")
    notes: list[str] = []
    if args.mtp is not None:
        notes.append("--mtp has no effect: --from-fp8 takes every tensor along.")
    if args.add_qkv_bias:
        notes.append("--add-qkv-bias has no effect: --from-fp8 takes every tensor along.")
    if args.trust_remote_code:
        notes.append("--trust-remote-code has no effect: --from-fp8 loads no tokenizer.")
    return notes


def _refuse_bad_directions(args: argparse.Namespace) -> None:
    if args.from_fp8:
        kinds = {args.load_model_type, args.save_model_type} - {None, "hf"}
        if kinds:
            raise RequestError(
                "--from-fp8 makes a Hugging Face directory out of a Hugging Face directory: leave --load-model-type and "
                "--save-model-type out. hf to mg reads FP8 as it is: leave --from-fp8 out there."
            )
        args.load_model_type = args.save_model_type = "hf"
    missing = [
        name
        for name in ("load_model_type", "save_model_type", "load_dir", "save_dir")
        if getattr(args, name) is None
    ]
    if missing:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise RequestError(
            f"{flags} must be given: convert from hf to mg or from mg to hf (--load-model-type hf --save-model-type mg "
            "--load-dir DIR --save-dir DIR), from FP8 (--from-fp8), or compare (--check A B)."
        )
    if args.load_model_type == args.save_model_type and not args.from_fp8:
        raise RequestError(
            f"--load-model-type and --save-model-type are both {args.load_model_type}: give hf and mg, or mg and hf."
        )
    refuse_bad_places(args)


def refuse_bad_places(args: argparse.Namespace) -> None:
    """Refuse a source that is none, and a target that would replace it."""
    require_path(args.load_dir, "--load-dir")
    require_place_for(args.save_dir, "--save-dir")
    if not args.load_dir.is_dir():
        raise RequestError(f"--load-dir {args.load_dir} is not a directory.")
    if args.save_dir.resolve() in (args.load_dir.resolve(), *args.load_dir.resolve().parents):
        raise RequestError(
            f"--save-dir {args.save_dir} is or contains --load-dir: the source is never replaced."
        )


def _refuse_bad_division(args: argparse.Namespace) -> None:
    for flag, value, most in (
        ("workers", args.workers, MOST_WORKERS),
        ("num-shards", args.num_shards, MOST_SHARDS),
    ):
        if value is not None and value > most:
            raise RequestError(f"--{flag} {value} is more than {most}: this must be a mistake.")
    given = args.shard_index is not None
    if given and args.join:
        raise RequestError("--join writes no shard: leave --shard-index out.")
    if args.join and args.dry_run:
        raise RequestError("--dry-run writes nothing, so there is nothing to --join: give one of the two.")
    if args.num_shards > 1 and not (given or args.join or args.dry_run):
        raise RequestError(
            f"--num-shards {args.num_shards}: say which of them this process is with --shard-index, from 0."
        )
    if given and args.shard_index >= args.num_shards:
        raise RequestError(
            f"--shard-index {args.shard_index} of --num-shards {args.num_shards}: the last is {args.num_shards - 1}."
        )
