"""The words that belong to `hal/` alone, and where they are looked for. No file is exempt.

Launch variables that users set, such as NPUS_PER_NODE, are other words: only whole words count.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCOPE = ("mindrl", "configs", "examples")

DEVICE_NAMES = ("cuda", "npu", "GPU", "NPU")
"""As a value: the text of a string, or a word of yaml or shell."""
VENDOR_WORDS = re.compile(
    r"torch\.cuda|torch_npu|\.cuda\(|\.npu\(|nccl|hccl|(?<![a-z])triton(?![a-z])|flash_attn|\w*_VISIBLE_DEVICES|\w*_ALLOC_CONF",
    re.IGNORECASE,
)
"""Anywhere: in strings, names, yaml and shell."""
DEVICE_VALUE = re.compile(rf"(?:{'|'.join(DEVICE_NAMES)})(?::\d+)?")
DEVICE_WORD = re.compile(rf"(?<![\w-])(?:{'|'.join(DEVICE_NAMES)})(?![\w-])")


def in_python(source: str) -> Iterator[tuple[int, str]]:
    """(line, word) for each device word in code; comments and docstrings may name devices."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            if DEVICE_VALUE.fullmatch(node.value):
                yield node.lineno, node.value
            yield from ((node.lineno, match[0]) for match in VENDOR_WORDS.finditer(node.value))
        elif isinstance(node, ast.Attribute) and node.attr in DEVICE_NAMES:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            names = [part for module in modules for part in module.split(".")]
            yield from ((node.lineno, name) for name in names if _is_device_name(name))
        elif isinstance(node, ast.Name | ast.arg | ast.keyword):
            name = node.id if isinstance(node, ast.Name) else node.arg or ""
            if _is_device_name(name):
                yield node.lineno, name


def in_text(source: str) -> Iterator[tuple[int, str]]:
    """(line, word) for each device word in yaml or shell, comments included."""
    for number, line in enumerate(source.splitlines(), start=1):
        for pattern in (VENDOR_WORDS, DEVICE_WORD):
            yield from ((number, match[0]) for match in pattern.finditer(line))


def findings() -> list[str]:
    """Every device word in scope, as `path:line: word`."""
    found: list[str] = []
    for folder in SCOPE:
        for path in sorted((ROOT / folder).rglob("*")):
            search = {".py": in_python, ".yaml": in_text, ".yml": in_text, ".sh": in_text}.get(path.suffix)
            if search is not None:
                words = search(path.read_text(encoding="utf-8"))
                found += [f"{path.relative_to(ROOT)}:{line}: {word}" for line, word in words]
    return found


def _is_device_name(name: str) -> bool:
    return name in DEVICE_NAMES or VENDOR_WORDS.fullmatch(name) is not None
