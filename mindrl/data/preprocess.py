"""`mindrl preprocess`: from a raw data set to prompts as token ids.

Rows go by in chunks, a bounded number at a time: memory does not grow with the data set.
"""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

from tqdm import tqdm

from mindrl.data.encoding import Encoder
from mindrl.data.fingerprint import tokenizer_hash
from mindrl.data.outcome import EncodedChunk
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.prompt_file import SCHEMA_VERSION, PromptWriter, facts_path
from mindrl.data.raw_files import Chunk, find_files, read_chunks
from mindrl.data.tally import Tally
from mindrl.errors import RequestError
from mindrl.files import require_place_for

ALONE_CHUNKS = 40
"""Chunks encoded before other processes are started, which takes longer than that."""
LOOK_AHEAD = 3
"""Chunks a worker has in hand or waiting, so that it never waits for the reader."""


def preprocess(config: PreprocessConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the data set's two files and return the facts in its .json.

    Raises `RequestError`, and then has written nothing, for bad input or an existing output."""
    _require_output(config, overwrite=overwrite)
    files = find_files(config.input)
    encoder = Encoder.build(config)
    tally = Tally(config)
    with (
        PromptWriter(config.output) as writer,
        tqdm(desc=config.output_prefix.name, unit="row", miniters=config.log_interval) as progress,
    ):
        for encoded in _encode(config, encoder, read_chunks(files, config.max_row_bytes)):
            tally.add(encoded)
            writer.add(encoded.prompts)
            progress.update(encoded.num_rows)
        facts = {
            "schema_version": SCHEMA_VERSION,
            **tally.facts(),
            "input": config.input,
            "handler": config.handler_name,
            "seq_length": config.seq_length,
            "tokenizer": str(config.tokenizer_name_or_path),
            "tokenizer_hash": tokenizer_hash(config.tokenizer_name_or_path),
            "template": config.prompt_type,
            "template_hash": encoder.template_hash,
        }
        writer.finish(facts)
    return facts


def _require_output(config: PreprocessConfig, *, overwrite: bool) -> None:
    for path in (config.output, facts_path(config.output)):
        require_place_for(path, "output")
        if path.is_dir():
            raise RequestError(f"output {path}: is a directory; choose another output_prefix")
        if path.exists() and not overwrite:
            raise RequestError(
                f"output {path}: exists; replace it with --overwrite, or choose another output_prefix"
            )


def _encode(config: PreprocessConfig, encoder: Encoder, chunks: Iterator[Chunk]) -> Iterator[EncodedChunk]:
    """Results in the order of the rows, however many processes work on them."""
    alone = ALONE_CHUNKS if config.workers > 1 else None
    yield from map(encoder, islice(chunks, alone))
    for next_chunk in chunks:
        yield from _encode_in_processes(config, chain([next_chunk], chunks))


def _encode_in_processes(config: PreprocessConfig, chunks: Iterable[Chunk]) -> Iterator[EncodedChunk]:
    executor = ProcessPoolExecutor(config.workers, get_context("spawn"), _start_worker, (config,))
    waiting: deque[Future[EncodedChunk]] = deque()
    try:
        for chunk in chunks:
            waiting.append(executor.submit(_encode_in_worker, chunk))
            if len(waiting) > LOOK_AHEAD * config.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RequestError(
            f"workers {config.workers}: one of them was killed, most often for memory; use fewer workers"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


_worker_encoder: Encoder | None = None


def _start_worker(config: PreprocessConfig) -> None:
    global _worker_encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is interrupted, and ends its workers
    Thread(target=_end_with_parent, daemon=True).start()
    _worker_encoder = Encoder.build(config)


def _end_with_parent() -> None:
    """A killed command can't end its workers, and they would wait for chunks for ever."""
    parent = parent_process()
    assert parent is not None, "workers are started by the executor"
    wait([parent.sentinel])
    os._exit(1)


def _encode_in_worker(chunk: Chunk) -> EncodedChunk:
    assert _worker_encoder is not None, "the executor runs _start_worker first"
    return _worker_encoder(chunk)
