"""`mindrl convert`: weights between Hugging Face directories and Megatron checkpoints."""

import argparse
import time
from typing import TYPE_CHECKING

from mindrl.cli import check_weights
from mindrl.cli.convert_flags import (
    DTYPES,
    add_conversion_flags,
    add_established_flags,
    add_fp8_flags,
    add_work_flags,
    answers,
)
from mindrl.cli.convert_printing import print_conversion
from mindrl.errors import RequestError
from mindrl.weight_maps import Architecture

if TYPE_CHECKING:
    from mindrl.checkpoint.conversion.convert import Conversion
    from mindrl.checkpoint.conversion.engine import Work

SUMMARY = (
    "convert weights: Hugging Face to Megatron (hf to mg) and back (mg to hf), bit for bit; FP8 to bfloat16"
)
EXAMPLE = """\
mindrl convert --load-model-type hf --save-model-type mg --load-dir Qwen2.5-7B --save-dir ckpt --params-dtype bf16
mindrl convert --load-model-type mg --save-model-type hf --load-dir ckpt --save-dir Qwen2.5-7B-trained
mindrl convert --from-fp8 --load-dir DeepSeek-V3 --save-dir DeepSeek-V3-bf16
mindrl convert --check Qwen2.5-7B ckpt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_conversion_flags(parser)
    add_fp8_flags(parser)
    add_established_flags(parser)
    add_work_flags(parser)
    check_weights.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if check_weights.is_asked_for(args):
        return check_weights.run(args)
    notes = answers(args)
    start = time.monotonic()
    result = _convert(args)
    seconds = time.monotonic() - start
    checked = check_weights.after_conversion(args, result)
    print_conversion(result, notes, seconds, checked, as_json=args.json)
    return checked.exit_code if checked else 0


def _convert(args: argparse.Namespace) -> "Conversion":
    # Imported here because it takes torch, and `--help` must not.
    import torch

    from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
    from mindrl.checkpoint.conversion.from_fp8 import convert_fp8
    from mindrl.checkpoint.conversion.mcore_to_hf import LARGEST_FILE_BYTES

    torch.set_num_threads(1)  # the workers are the threads
    if args.from_fp8:
        return convert_fp8(
            args.load_dir,
            args.save_dir,
            dtype=DTYPES.get(args.params_dtype),
            tokenizer=args.tokenizer_model,
            overwrite=args.overwrite,
            max_file_bytes=args.max_shard_size,
            work=_work(args),
        )
    if args.load_model_type == "hf":
        return convert_hf_to_mcore(
            args.load_dir,
            args.save_dir,
            dtype=DTYPES.get(args.params_dtype),
            tensor_parallel_size=args.target_tensor_parallel_size,
            expert_tensor_parallel_size=args.target_expert_tensor_parallel_size,
            mtp=args.mtp,
            tokenizer=args.tokenizer_model,
            trust_remote_code=args.trust_remote_code,
            overwrite=args.overwrite,
            work=_work(args),
            check=lambda arch: _check_bias(args, arch),
        )
    return convert_mcore_to_hf(
        args.load_dir,
        args.save_dir,
        dtype=DTYPES.get(args.params_dtype),
        hf_dir=args.hf_dir,
        mtp=args.mtp,
        tokenizer=args.tokenizer_model,
        trust_remote_code=args.trust_remote_code,
        overwrite=args.overwrite,
        max_file_bytes=args.max_shard_size or LARGEST_FILE_BYTES,
        work=_work(args),
        check=lambda arch: _check_bias(args, arch),
    )


def _work(args: argparse.Namespace) -> "Work":
    from mindrl.checkpoint.conversion.engine import Work

    index = None if args.join else args.shard_index or 0
    return Work(args.workers, args.num_shards, index, args.dry_run, args.allow_nan)


def _check_bias(args: argparse.Namespace, arch: Architecture) -> None:
    if args.add_qkv_bias and not arch.qkv_bias:
        raise RequestError(
            f"--add-qkv-bias was given, but {arch.model_type} models have no bias on query, key and value: "
            "leave it out (config.json decides)."
        )
