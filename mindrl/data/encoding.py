"""From rows to token ids: handler, template and tokenizer, one after the other."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transformers import AutoTokenizer

from mindrl.data.fingerprint import text_hash
from mindrl.data.handlers import DropReason, Handler, Question, find_handler
from mindrl.data.preprocess_config import PreprocessConfig
from mindrl.data.raw_files import RawRow
from mindrl.data.templates import CHAT, chat_renderer, load_template, shipped_templates
from mindrl.errors import RequestError

_SPECIAL_TOKEN = re.compile(r"<[|｜][^<>]+?[|｜]>")
_NO_SYSTEM = ""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row that became a prompt."""

    prompt: str
    """Template included."""
    prompt_token_ids: list[int]
    ground_truth: str
    extra: str
    """JSON object of the additional columns."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes rows one after the other; each becomes an `Encoded` or the reason why it is left out."""

    config: PreprocessConfig
    handler: Handler
    tokenizer: Any
    render: Callable[[str, str], str]
    """(prompt, system) -> text"""
    template_hash: str

    @classmethod
    def build(cls, config: PreprocessConfig) -> Self:
        """Look everything up; `RequestError` for what is not there, or a template of another tokenizer."""
        handler = find_handler(config.handler_name)
        where = config.tokenizer_name_or_path
        if config.prompt_type == CHAT:
            tokenizer = load_tokenizer(where)
            render = chat_renderer(tokenizer, where)
            return cls(config, handler, tokenizer, render, text_hash(str(tokenizer.chat_template)))
        template = load_template(config.prompt_type, config.prompt_type_path or shipped_templates())
        tokenizer = load_tokenizer(where)
        _check_special_tokens(template.render("", _NO_SYSTEM), tokenizer, config)
        return cls(config, handler, tokenizer, template.render, template.content_hash)

    def __call__(self, rows: Sequence[RawRow]) -> list[Encoded | DropReason]:
        """One result a row, in order."""
        return [self._encode(row) for row in rows]

    def _encode(self, row: RawRow) -> Encoded | DropReason:
        extra = None if row is None else _extra(row, self.config.dataset_additional_keys)
        if row is None or extra is None:
            return "bad_row"
        question = self.handler(row, self.config.map_keys)
        if not isinstance(question, Question):
            return question
        if not _is_text(question.prompt + question.system + question.ground_truth + extra):
            return "bad_row"
        text = self.render(question.prompt, question.system)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) > self.config.seq_length:
            return "too_long"
        return Encoded(text, ids, question.ground_truth, extra)


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a Hugging Face directory; `RequestError` if there is none."""
    if not directory.is_dir():
        raise RequestError(f"tokenizer {directory}: no such directory; download the model there first")
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # all met with damaged files
        raise RequestError(f"tokenizer {directory}: can't be read: {error!r}") from error


def _extra(row: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """The additional columns as JSON; None if one is missing or is no JSON value."""
    try:
        return json.dumps({column: row[column] for column in columns}, ensure_ascii=False)
    except (KeyError, TypeError):
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
