"""`mindrl convert`: weights between Hugging Face directories and Megatron checkpoints."""

import argparse
import json
import re
import time
from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import require_path, require_place_for
from mindrl.weight_maps import FAMILIES, Architecture

SUMMARY = "convert weights: Hugging Face to Megatron (hf to mg) and back (mg to hf), bit for bit"
EXAMPLE = """\
mindrl convert --load-model-type hf --save-model-type mg --load-dir Qwen2.5-7B --save-dir ckpt --params-dtype bf16
mindrl convert --load-model-type mg --save-model-type hf --load-dir ckpt --save-dir Qwen2.5-7B-trained"""

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--load-model-type", choices=("hf", "mg"), required=True, help="what --load-dir holds")
    add("--save-model-type", choices=("hf", "mg"), required=True, help="what --save-dir will hold")
    add(
        "--load-dir",
        type=Path,
        required=True,
        help="Hugging Face directory, or checkpoint directory (or one iteration's directory in it)",
    )
    add(
        "--save-dir",
        type=Path,
        required=True,
        help="new directory; for mg to hf, an existing Hugging Face directory is kept and gets a mg2hg/ inside",
    )
    add("--params-dtype", choices=tuple(DTYPES), help="type of the resulting weights (default: as they are)")
    add(
        "--hf-dir",
        type=Path,
        help="mg to hf: config.json and tokenizer files (default: hf/ in the checkpoint directory)",
    )
    add(
        "--tokenizer-model",
        type=Path,
        help="tokenizer file or directory to store with the result instead of the model's own",
    )
    add(
        "--trust-remote-code",
        action="store_true",
        help="load the result's tokenizer, running its own Python code if it has any, to check it against the model; "
        "without it no code of a model is run, with it no other",
    )
    add(
        "--target-tensor-parallel-size",
        type=_positive,
        help="hf to mg: store weights in this many parts, which loads fastest at this size; loads at any "
        "(default: up to 8, by size)",
    )
    add(
        "--target-pipeline-parallel-size",
        type=_positive,
        help="no effect: layers are stored one by one, so that the checkpoint loads at any pipeline size",
    )
    add("--add-qkv-bias", action="store_true", help="checked against config.json, which decides")
    add("--model-type-hf", help="no effect: config.json decides the family")
    add("--model-type", default="GPT", choices=("GPT",), help="no effect: GPT is the only one")
    add("--use-mcore-models", action="store_true", help="no effect: always so")
    add("--overwrite", action="store_true", help="replace an earlier result at --save-dir")
    add("--json", action="store_true", help="print the outcome as one JSON object")


def run(args: argparse.Namespace) -> int:
    notes = _answers(args)
    start = time.monotonic()
    # Imported here because it takes torch, and `--help` must not.
    from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf

    dtype = DTYPES.get(args.params_dtype)
    if args.load_model_type == "hf":
        result = convert_hf_to_mcore(
            args.load_dir,
            args.save_dir,
            dtype=dtype,
            tensor_parallel_size=args.target_tensor_parallel_size,
            tokenizer=args.tokenizer_model,
            trust_remote_code=args.trust_remote_code,
            overwrite=args.overwrite,
            check=lambda arch: _check_bias(args, arch),
        )
    else:
        result = convert_mcore_to_hf(
            args.load_dir,
            args.save_dir,
            dtype=dtype,
            hf_dir=args.hf_dir,
            tokenizer=args.tokenizer_model,
            trust_remote_code=args.trust_remote_code,
            overwrite=args.overwrite,
            check=lambda arch: _check_bias(args, arch),
        )
    outcome = {
        "output": str(result.output),
        "family": result.family,
        "dtype": result.dtype,
        "num_parameters": result.num_parameters,
        "num_bytes": result.num_bytes,
        "seconds": round(time.monotonic() - start, 3),
        "notes": [*notes, *result.notes],
    }
    if args.json:
        print(json.dumps(outcome))
    else:
        for note in outcome["notes"]:
            print(f"note: {note}")
        print(
            f"{result.family}: {result.num_parameters:,} parameters as {result.dtype} "
            f"({result.num_bytes / 1e6:,.1f} MB) in {outcome['seconds']:.1f} s -> {result.output}"
        )
    return 0


def _positive(text: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive whole number")
    return int(text)


def _answers(args: argparse.Namespace) -> list[str]:
    """Why a flag that was given has no effect; refuses what can't be meant."""
    to_megatron = args.load_model_type == "hf"
    if args.load_model_type == args.save_model_type:
        raise RequestError(
            f"--load-model-type and --save-model-type are both {args.load_model_type}: give hf and mg, or mg and hf."
        )
    require_path(args.load_dir, "--load-dir")
    require_place_for(args.save_dir, "--save-dir")
    if not args.load_dir.is_dir():
        raise RequestError(f"--load-dir {args.load_dir} is not a directory.")
    if args.save_dir.resolve() in (args.load_dir.resolve(), *args.load_dir.resolve().parents):
        raise RequestError(
            f"--save-dir {args.save_dir} is or contains --load-dir: the source is never replaced."
        )
    if to_megatron and args.hf_dir is not None:
        raise RequestError("--hf-dir is for mg to hf; hf to mg reads config.json in --load-dir.")
    notes: list[str] = []
    if not to_megatron and args.target_tensor_parallel_size is not None:
        notes.append("--target-tensor-parallel-size has no effect: a Hugging Face model is stored whole.")
    if args.target_pipeline_parallel_size is not None:
        notes.append(
            "--target-pipeline-parallel-size has no effect: layers are stored one by one and load at any size."
        )
    if args.model_type_hf is not None:
        families = ", ".join(FAMILIES)
        notes.append(f"--model-type-hf has no effect: config.json decides the family ({families}).")
    return notes


def _check_bias(args: argparse.Namespace, arch: Architecture) -> None:
    if args.add_qkv_bias and not arch.qkv_bias:
        raise RequestError(
            f"--add-qkv-bias was given, but {arch.model_type} models have no bias on query, key and value: "
            "leave it out (config.json decides)."
        )
