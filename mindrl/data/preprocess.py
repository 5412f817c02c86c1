"""`mindrl preprocess`: from a raw data set to prompts as token ids."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

from mindrl.data.encoding import Encoded, Encoder
from mindrl.data.fingerprint import tokenizer_hash
from mindrl.data.handlers import DROP_REASONS
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.prompt_file import SCHEMA_VERSION, facts_path, write_prompt_file
from mindrl.data.raw_files import RawRow, read_rows
from mindrl.errors import RequestError
from mindrl.files import require_place_for


def preprocess(config: PreprocessConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the data set's two files and return the facts in its .json.

    Raises `RequestError`, and then has written nothing, for bad input or an existing output."""
    for path in (config.output, facts_path(config.output)):
        require_place_for(path, "output")
        if path.is_dir():
            raise RequestError(f"output {path}: is a directory; choose another output_prefix")
        if path.exists() and not overwrite:
            raise RequestError(
                f"output {path}: exists; replace it with --overwrite, or choose another output_prefix"
            )
    rows = read_rows(config.input, [*config.map_keys.columns(), *config.dataset_additional_keys])
    encoder = Encoder.build(config)
    results = [result for chunk in _encode(config, encoder, rows) for result in chunk]
    prompts = [_row(config, index, r) for index, r in enumerate(results) if isinstance(r, Encoded)]
    dropped = Counter(result for result in results if isinstance(result, str))
    counts = {reason: dropped[reason] for reason in DROP_REASONS}
    if not prompts:
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise RequestError(f"input {config.input}: none of its {len(rows)} rows gave a prompt ({told})")
    lengths = [len(prompt["prompt_token_ids"]) for prompt in prompts]
    facts = {
        "schema_version": SCHEMA_VERSION,
        "num_prompts": len(prompts),
        "num_rows": len(rows),
        "dropped": counts,
        "prompt_length": {"min": min(lengths), "mean": sum(lengths) / len(lengths), "max": max(lengths)},
        "input": str(config.input),
        "handler": config.handler_name,
        "seq_length": config.seq_length,
        "tokenizer": str(config.tokenizer_name_or_path),
        "tokenizer_hash": tokenizer_hash(config.tokenizer_name_or_path),
        "template": config.prompt_type,
        "template_hash": encoder.template_hash,
    }
    write_prompt_file(config.output, prompts, facts)
    return facts


def _row(config: PreprocessConfig, index: int, encoded: Encoded) -> dict[str, Any]:
    name = config.output_prefix.name
    return {
        "schema_version": SCHEMA_VERSION,
        "uid": f"{name}-{index:07d}",
        "prompt": encoded.prompt,
        "prompt_token_ids": encoded.prompt_token_ids,
        "ground_truth": encoded.ground_truth,
        "data_source": name,
        "extra": encoded.extra,
        "images": [],
    }


def _encode(
    config: PreprocessConfig, encoder: Encoder, rows: Sequence[RawRow]
) -> Iterator[list[Encoded | str]]:
    """Results chunk by chunk, in the order of the rows, however many processes work on them."""
    size = config.log_interval
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=len(rows), desc=config.output_prefix.name, unit="row"))
        if config.workers == 1 or len(chunks) == 1:
            results = map(encoder, chunks)
        else:
            executor = ProcessPoolExecutor(
                min(config.workers, len(chunks)), get_context("spawn"), _start_worker, (config,)
            )
            results = stack.enter_context(executor).map(_encode_in_worker, chunks)
        for result in results:
            progress.update(len(result))
            yield result


_worker_encoder: Encoder | None = None


def _start_worker(config: PreprocessConfig) -> None:
    global _worker_encoder
    _worker_encoder = Encoder.build(config)


def _encode_in_worker(rows: Sequence[RawRow]) -> list[Encoded | str]:
    assert _worker_encoder is not None, "the executor runs _start_worker first"
    return _worker_encoder(rows)
