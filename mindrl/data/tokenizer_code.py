"""Tokenizers that come as Python code in a model's directory (Moonlight's does). Nothing here runs any of it.

`auto_map` in tokenizer_config.json names the class, as transformers reads it: `module.Class` of a file beside it, or
`owner/repository--module.Class` of one elsewhere; several in a list, one for each kind of tokenizer."""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from mindrl.files import read_json_object

_REFERENCE = re.compile(r"([A-Za-z_]\w*)\.[A-Za-z_]\w*", re.ASCII)


def code_references(hf_dir: Path) -> tuple[str, ...]:
    """The classes that tokenizer_config.json names, such as `tokenization_moonshot.TikTokenTokenizer`."""
    path = hf_dir / "tokenizer_config.json"
    named: Any = read_json_object(path).get("auto_map") if path.is_file() else None
    if isinstance(named, dict):
        named = cast("dict[str, Any]", named).get("AutoTokenizer")
    names = cast("Sequence[object]", named) if isinstance(named, list) else [named]
    return tuple(name for name in names if isinstance(name, str))


def code_files(hf_dir: Path) -> tuple[list[Path], list[str]]:
    """The Python files that those classes are in and the files beside them that these import; what is missing."""
    found: dict[str, Path] = {}
    missing: list[str] = []
    wanted: list[str] = []
    for reference in code_references(hf_dir):
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            missing.append(reference)
        else:
            wanted.append(match[1])
    while wanted:
        module = wanted.pop()
        path = hf_dir / f"{module}.py"
        if module in found:
            continue
        if path.is_file():
            found[module] = path
            wanted += _imported_beside(path)
        else:
            missing.append(path.name)
    return list(found.values()), missing


def _imported_beside(path: Path) -> list[str]:
    """Modules of the same directory that a file imports, found by reading its text."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []  # it imports nothing
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names += [node.module] if node.module else [alias.name for alias in node.names]
    return [name for name in names if (path.parent / f"{name}.py").is_file()]
