"""From rows to token ids: handler, template and tokenizer, one after the other."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transformers import AutoTokenizer

from mindrl.data.columns import MISSING, find_value
from mindrl.data.fingerprint import text_hash, tokenizer_hash
from mindrl.data.handlers import DROP_REASONS, DropReason, Handler, Question, find_handler
from mindrl.data.outcome import ChunkOutcome, Encoded, EncodedChunk
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.raw_files import Chunk, Row
from mindrl.data.templates import CHAT, chat_renderer, load_template, shipped_templates
from mindrl.data.tokenizer_code import code_references
from mindrl.errors import RequestError

_SPECIAL_TOKEN = re.compile(r"<[|｜][^<>]+?[|｜]>")
_NO_SYSTEM = ""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes rows one after the other; each becomes a prompt or is counted under a reason."""

    config: PreprocessConfig
    handler: Handler
    tokenizer: Any
    render: Callable[[str, str], str]
    """(prompt, system) -> text"""
    template_hash: str
    longest_token: int
    """Characters of the vocabulary's longest token: a text of many more has more than `seq_length` tokens."""

    @classmethod
    def build(cls, config: PreprocessConfig) -> Self:
        """Look everything up; `RequestError` for what is not there, or a template of another tokenizer."""
        handler = find_handler(config.handler_name)
        where = config.tokenizer_name_or_path
        if config.prompt_type == CHAT:
            tokenizer = load_tokenizer(where)
            render, template_hash = (
                chat_renderer(tokenizer, where),
                text_hash(str(tokenizer.chat_template)),
            )
        else:
            template = load_template(config.prompt_type, config.prompt_type_path or shipped_templates())
            tokenizer = load_tokenizer(where)
            _check_special_tokens(template.render("", _NO_SYSTEM), tokenizer, config)
            render, template_hash = template.render, template.content_hash
        longest_token = max(map(len, tokenizer.get_vocab()))
        return cls(config, handler, tokenizer, render, template_hash, longest_token)

    def __call__(self, chunk: Chunk) -> EncodedChunk:
        """One prompt or one count a row, in order."""
        outcome = ChunkOutcome(chunk, self.config)
        for number, row in enumerate(chunk.rows, chunk.first):
            encoded = self._encode(row, outcome)
            if isinstance(encoded, Encoded):
                outcome.keep(number, encoded)
            else:
                outcome.drop(number, row, encoded)
        return outcome.finish()

    def _encode(self, row: Row, outcome: ChunkOutcome) -> Encoded | DropReason:
        values = _values(row)
        if not isinstance(values, dict):
            return values
        outcome.note_columns(values)
        extra = _extra(values, self.config.dataset_additional_keys)
        if extra is None:
            return "bad_row"
        question = self.handler(values, self.config.map_keys)
        if not isinstance(question, Question):
            return self._checked(question)
        everything = question.prompt + question.system + question.ground_truth + extra
        if not _is_text(everything):
            return "bad_text"
        if len(everything) > self.config.max_row_bytes:
            return "too_large"
        text = self.render(question.prompt, question.system)
        if len(text) > self.longest_token * self.config.seq_length:
            return "too_long"
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) > self.config.seq_length:
            return "too_long"
        return Encoded(text, ids, question.ground_truth, extra)

    def _checked(self, reason: object) -> DropReason:
        """The handler's answer, which may be a user's."""
        for known in DROP_REASONS:
            if reason == known:
                return known
        raise RequestError(
            f"handler_name {self.config.handler_name!r}: it returned {reason!r}, expected a Question or one of "
            f"{', '.join(DROP_REASONS)}"
        )


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a Hugging Face directory; `RequestError` if there is none."""
    if not directory.is_dir():
        raise RequestError(f"tokenizer {directory}: no such directory; download the model there first")
    if (code := code_references(directory)) and not (directory / "tokenizer.json").is_file():
        # transformers would take a tokenizer of its own instead, which gives other ids
        raise RequestError(
            f"tokenizer {directory}: it is Python code of the model's own ({', '.join(code)}), which is not run here; "
            "convert it to a tokenizer.json first (docs/conversion.md says how)"
        )
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # all met with damaged files
        tokenizer_hash(directory)  # says better what is wrong with the files, if it is they
        raise RequestError(f"tokenizer {directory}: can't be read: {error!r}") from error


def _values(row: Row) -> dict[str, Any] | DropReason:
    """The row by column; a list's items go by their position, `0`, `1`, ..."""
    content: Any = row.content
    if row.too_large:
        return "too_large"
    try:
        if isinstance(content, bytes):
            content = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        return "bad_text"
    except (ValueError, RecursionError):
        return "bad_json"
    if content is None:
        return "bad_text" if row.content is None else "bad_row"
    if isinstance(content, list):
        content = {str(index): value for index, value in enumerate(content)}
    return content if isinstance(content, dict) else "bad_row"


def _extra(row: Mapping[str, Any], places: Sequence[str]) -> str | None:
    """The additional columns as JSON; None if one is missing or is no JSON value."""
    values = {place: find_value(row, place) for place in places}
    try:
        return None if MISSING in values.values() else json.dumps(values, ensure_ascii=False)
    except TypeError:
        return None


def _is_text(text: str) -> bool:
    """Whether it can be encoded: JSON's escapes can also spell halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_special_tokens(text: str, tokenizer: Any, config: PreprocessConfig) -> None:
    """A template's special tokens must be single tokens; another family's would be spelled out silently."""
    for token in dict.fromkeys(_SPECIAL_TOKEN.findall(text)):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise RequestError(
                f"prompt_type {config.prompt_type}: its special token {token} is not one in the tokenizer of "
                f"{config.tokenizer_name_or_path}; choose the type of that model's family, or chat"
            )
