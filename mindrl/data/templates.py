"""Prompt templates: the text around a question, special tokens included."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError, model_validator

import mindrl
from mindrl.config.base import Section
from mindrl.config.names import nearest
from mindrl.data.fingerprint import text_hash
from mindrl.errors import RequestError

CHAT = "chat"
"""The prompt type that uses the tokenizer's own chat template."""

_SHIPPED = Path("configs/model/templates.json")


class PromptTemplate(Section):
    """One prompt type: `prefix`, then `system` where there is a system message, then `user`, then `assistant`."""

    prefix: str = ""
    """Comes first, whether there is a system message or not."""
    system: str = ""
    """Holds `{system}`; left out where a row has no system message and there is no default one."""
    default_system: str = ""
    """System message of rows that have none."""
    user: str
    """Holds `{prompt}`."""
    assistant: str = ""
    """Opens the response."""

    @model_validator(mode="after")
    def _has_a_place_for_each_text(self) -> Self:
        if "{prompt}" not in self.user or (self.system and "{system}" not in self.system):
            raise ValueError("`user` must hold {prompt}, and `system`, if there is one, {system}")
        if self.default_system and not self.system:
            raise ValueError("`default_system` has no effect without `system`")
        return self

    def render(self, prompt: str, system: str) -> str:
        """The text of one prompt; `system` may be empty."""
        message = system or self.default_system
        opening = self.system.replace("{system}", message) if message else ""
        return f"{self.prefix}{opening}{self.user.replace('{prompt}', prompt)}{self.assistant}"

    @property
    def content_hash(self) -> str:
        """Hash of the template."""
        return text_hash(self.model_dump_json())


def shipped_templates() -> Path:
    """The templates file that comes with this program, in a checkout or installed."""
    package = Path(mindrl.__file__).parent
    return next(path for path in (package.parent / _SHIPPED, package / _SHIPPED) if path.is_file())


def load_template(name: str, path: Path) -> PromptTemplate:
    """The template of that name in a templates file; `RequestError` if there is none, or the file is not one."""
    if not path.is_file():
        raise RequestError(f"prompt_type_path {path}: no such file")
    try:
        templates = TypeAdapter(dict[str, PromptTemplate]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise RequestError(
            f"prompt_type_path {path}: {reason}; it has to be a JSON object of templates (docs/data.md)"
        ) from error
    if name not in templates:
        near = nearest(name, [*templates, CHAT])
        hint = f"did you mean {near}? " if near else ""
        raise RequestError(
            f"prompt_type {name!r}: {path} has no such template; {hint}Known: {', '.join([*templates, CHAT])}"
        )
    return templates[name]


def chat_renderer(tokenizer: Any, where: Path) -> Callable[[str, str], str]:
    """`render(prompt, system)` by the tokenizer's own chat template; `RequestError` if it has none."""
    if not tokenizer.chat_template:
        raise RequestError(
            f"prompt_type {CHAT}: the tokenizer in {where} has no chat template; choose a type by name"
        )

    def render(prompt: str, system: str) -> str:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    return render
