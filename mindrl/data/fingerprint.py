"""Hashes that say whether two tokenizers, or two templates, give the same token ids."""

import hashlib
import json
from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import read_json_object

_VOCABULARY_FILES = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")
_PER_CALL_SETTINGS = ("padding", "truncation")
"""Parts of tokenizer.json that hold how its last call padded, not which ids a text has."""


def tokenizer_hash(directory: Path) -> str:
    """Hash of the files in a Hugging Face directory that decide which ids a text has.

    That is tokenizer.json, however it is formatted, or where there is none the vocabulary files. The chat template
    and the names of special tokens are left out: a data set's prompts have been through its template already.
    `RequestError` if the directory holds no tokenizer."""
    fast = directory / "tokenizer.json"
    if fast.is_file():
        content = read_json_object(fast)
        for setting in _PER_CALL_SETTINGS:
            content.pop(setting, None)
        return text_hash(json.dumps(content, sort_keys=True))
    digest = hashlib.sha256()
    found = [name for name in _VOCABULARY_FILES if (directory / name).is_file()]
    if not found:
        raise RequestError(
            f"tokenizer {directory}: holds neither tokenizer.json nor any of {', '.join(_VOCABULARY_FILES)}; "
            "give a Hugging Face directory"
        )
    for name in found:
        digest.update(name.encode())
        digest.update((directory / name).read_bytes())
    return f"sha256:{digest.hexdigest()}"


def text_hash(text: str) -> str:
    """Hash of a text."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8')).hexdigest()}"
