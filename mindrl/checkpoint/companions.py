"""The files beside the weights: what makes a Hugging Face directory complete. They are copied, never run.

config.json                        without `auto_map`: the code of the model's own that it names is not needed here
generation_config.json             and other settings (.json)
tokenizer.json, vocab.txt, ...     the tokenizer, of any kind: .json, .txt, .model, .tiktoken
tokenization_*.py                  the tokenizer's own code, where tokenizer_config.json names it, as data
chat_template.jinja                and additional_chat_templates/*.jinja
LICENSE, NOTICE                    which ask to go along

Left out: weights in any format, their indexes, model code, pickles, and the model card (README.md), which describes
other weights than a trained model's.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindrl.data.tokenizer_code import code_files
from mindrl.errors import RequestError
from mindrl.files import POINTER_REASON, is_pointer, read_json_object
from mindrl.weight_maps.architecture import read_config

CONFIG_NAME = "config.json"
MORE_TEMPLATES = "additional_chat_templates"
_KEPT = re.compile(r".*\.(json|txt|model|jinja|tiktoken)|.*\.model\.v\d+")
_LICENCE = re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY).*", re.IGNORECASE)
_LEFT_OUT = re.compile(
    r".*\.index\.json"  # of weights in other files
    r"|adapter_config\.json"  # would have transformers look for an adapter's base model
    r"|(hf_quant|quant|quantize)_config\.json"  # says that the weights are quantised, which those written are not
    r"|mindrl_conversion\.json"  # about another result's files
    r"|README.*",
    re.IGNORECASE,
)
_NOT_TOKENIZER = re.compile(
    r"(config|generation_config|(video_)?pre?processor_config|processor_config)\.json", re.IGNORECASE
)
_PICKLE = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]")


@dataclass(frozen=True)
class Companions:
    """What goes with the weights, found and looked at, not yet written."""

    files: Mapping[str, Path]
    """Where each is now, by its name in the result (`folder/name` for some)."""
    config: Mapping[str, Any]
    """config.json as it will be written."""
    notes: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())

    @property
    def tokenizer_code(self) -> tuple[str, ...]:
        """Names of the tokenizer's own Python files."""
        return tuple(name for name in self.files if name.endswith(".py"))

    def saying(self, dtype: str) -> "Companions":
        """The same with a config.json that says `dtype`, under the key that is there (transformers 5: `dtype`, 4:
        `torch_dtype`, which both read)."""
        config = dict(self.config)
        keys = [key for key in ("dtype", "torch_dtype") if config.get(key) is not None]
        if not keys and dtype == "float32":
            return self  # which is what a config without the key says
        return replace(self, config=config | dict.fromkeys(keys or ["torch_dtype"], dtype))

    def write(self, directory: Path) -> None:
        """Copy every file; config.json too, byte for byte, unless its content changes."""
        directory.mkdir(exist_ok=True)
        for name, path in self.files.items():
            target = directory / name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
        if self.config != read_json_object(self.files[CONFIG_NAME]):
            text = json.dumps(self.config, indent=2, ensure_ascii=False)
            (directory / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def find_companions(hf_dir: Path, tokenizer: Path | None = None) -> Companions:
    """Everything beside the weights of a Hugging Face directory that goes along, by kind.

    `tokenizer` is a directory to take every tokenizer file from instead, or one file to take in place of that of the
    same name. `RequestError` for a file that is a Git LFS pointer or a link to nowhere, and for a missing config.json."""
    config = read_config(hf_dir)
    files = {str(path.relative_to(hf_dir)): path for path in _candidates(hf_dir)}
    if tokenizer is not None:
        files = _with_tokenizer(files, tokenizer)
    code, missing = code_files(tokenizer if tokenizer is not None and tokenizer.is_dir() else hf_dir)
    notes: list[str] = []
    pickles = [name for name, path in files.items() if _PICKLE.match(_start(path))]
    if pickles:
        notes.append(f"{', '.join(pickles)} left out: a pickle, which can run code when it is read.")
    if config.pop("auto_map", None) is not None:
        notes.append(
            "auto_map left out of config.json, and the model code that it names: neither is needed here."
        )
    own = ", ".join(path.name for path in code)
    if own:
        notes.append(f"{own}: the tokenizer's own code, copied as data.")
    if missing:
        notes.append(
            f"{', '.join(missing)}: the tokenizer's own code, not found here, and so not in the result."
        )
    if not any(_is_tokenizer(name) for name in files):
        notes.append(f"{tokenizer or hf_dir} holds no tokenizer, and so the result has none.")
    kept = {name: path for name, path in files.items() if name not in pickles}
    kept |= {path.name: path for path in code}
    return Companions(dict(sorted(kept.items())), config, tuple(notes))


def _candidates(hf_dir: Path) -> Iterator[Path]:
    folder = hf_dir / MORE_TEMPLATES
    paths = [*hf_dir.iterdir(), *(folder.glob("*.jinja") if folder.is_dir() else ())]
    for path in paths:
        kept = _KEPT.fullmatch(path.name) or _LICENCE.fullmatch(path.name)
        if not kept or _LEFT_OUT.fullmatch(path.name):
            continue
        if path.is_symlink() and not path.exists():
            raise RequestError(
                f"{path} is a link to {path.readlink()}, which does not exist: fetch it again."
            )
        if not path.is_file():
            continue
        if is_pointer(path):
            raise RequestError(f"{path} {POINTER_REASON}")
        yield path


def _with_tokenizer(files: Mapping[str, Path], tokenizer: Path) -> dict[str, Path]:
    """The files with another tokenizer: all of it, as one left from the old may be what a loader prefers."""
    if tokenizer.is_dir():
        others = {name: path for name, path in files.items() if not _is_tokenizer(name)}
        replacements = {str(path.relative_to(tokenizer)): path for path in _candidates(tokenizer)}
        found = {name: path for name, path in replacements.items() if _is_tokenizer(name)}
        if not found:
            raise RequestError(f"--tokenizer-model {tokenizer} holds no tokenizer files.")
        return others | found
    if not tokenizer.is_file():
        raise RequestError(f"--tokenizer-model {tokenizer} does not exist.")
    old = [name for name in files if _is_tokenizer(name)]
    if old and tokenizer.name not in old:
        raise RequestError(
            f"--tokenizer-model {tokenizer}: the model's tokenizer is in {', '.join(old)}, and with a {tokenizer.name} "
            "beside them two tokenizers would be there. Give the directory of the other tokenizer, with all its files."
        )
    return {**files, tokenizer.name: tokenizer}


def _is_tokenizer(name: str) -> bool:
    return not (_NOT_TOKENIZER.fullmatch(name) or _LICENCE.fullmatch(name))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)
