"""Loads the tokenizer that a result will have, its own code included: the only code of a model that is ever run here,
by `--trust-remote-code` alone, in a process of its own, before anything is written."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from mindrl.checkpoint.companions import Companions
from mindrl.errors import RequestError

SECONDS = 300.0
"""The largest vocabularies load in seconds; code that waits for something is ended."""


def check_tokenizer(companions: Companions, vocab_size: int) -> str:
    """A sentence with the number of tokens; `RequestError` if it does not load, or has more than `vocab_size`.

    The process sees the files that go along and no others: no model code, and a config.json without `auto_map`."""
    with tempfile.TemporaryDirectory(prefix="mindrl-tokenizer-") as place:
        staged = Path(place) / "model"
        companions.write(staged)
        # transformers copies such code to a folder of its own before it imports it
        environment = os.environ | {
            "HF_MODULES_CACHE": str(Path(place) / "modules"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        answer = Path(place) / "size.json"
        size = _size_in_a_child(
            [sys.executable, "-m", __name__, str(staged), str(answer)], environment, answer
        )
    if size > vocab_size:
        raise RequestError(
            f"The tokenizer has {size} tokens, the model's embedding only {vocab_size} rows (vocab_size in "
            "config.json): they belong to different models. Give the model's own by --tokenizer-model."
        )
    return f"the tokenizer loads and has {size} tokens, for {vocab_size} rows of the embedding."


def _size_in_a_child(command: list[str], environment: dict[str, str], answer: Path) -> int:
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RequestError(
            f"The tokenizer did not load within {SECONDS:.0f} s. Leave out --trust-remote-code to copy it unseen."
        ) from None
    if done.returncode != 0 or not answer.exists():
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RequestError(
            f"The tokenizer does not load: {said} Mend its files, give another by --tokenizer-model, or leave out "
            "--trust-remote-code to copy it unseen."
        )
    return int(json.loads(answer.read_text()))


def main() -> None:
    """In the child: the number of tokens of the tokenizer in a directory, into a file."""
    from transformers import AutoTokenizer

    directory, answer = sys.argv[1:]
    tokenizer = cast("Any", AutoTokenizer).from_pretrained(
        directory, trust_remote_code=True, local_files_only=True
    )
    Path(answer).write_text(json.dumps(len(tokenizer)), encoding="utf-8")


if __name__ == "__main__":
    main()
