"""The words that belong to `hal/` alone, and where they are looked for. No file is exempt.

Words: `torch.cuda`, `.cuda(`, `torch_npu`, `.npu(`, nccl and hccl in any case, "cuda", "npu", "GPU" and "NPU" as values,
triton, flash_attn, *_VISIBLE_DEVICES, *_ALLOC_CONF, and whatever else has a vendor's word in capitals. The launch
variables below, which users set on every kind of device, are the only exceptions.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCOPE = ("mindrl", "configs", "examples")

LAUNCH_VARIABLES = ("NPUS_PER_NODE", "GPUS_PER_NODE", "NGPUS_PER_NODE", "NGPUS_PER_NODES")
"""Established names for the number of worker processes on a node: docs/launch.md, docs/migration.md."""

DEVICE_NAMES = ("cuda", "npu", "GPU", "NPU")
"""As a value: the text of a string, or a word of yaml or shell."""
VENDOR_WORDS = re.compile(
    r"torch\.cuda|torch_npu|\.cuda\(|\.npu\(|nccl|hccl|(?<![a-z])triton(?![a-z])|flash_attn|\w*_VISIBLE_DEVICES|\w*_ALLOC_CONF",
    re.IGNORECASE,
)
"""Anywhere: in strings, names, yaml and shell."""
CAPITALS = re.compile(rf"\b(?!(?:{'|'.join(LAUNCH_VARIABLES)})\b)\w*(?:GPU|NPU|CUDA|ASCEND)\w*")
"""Anywhere too: other variables and constants that are named after a vendor's device."""
DEVICE_VALUE = re.compile(rf"(?:{'|'.join(DEVICE_NAMES)})(?::\d*)?")
"""The whole of a string; in an f-string, up to the index."""
DEVICE_WORD = re.compile(rf"(?<![\w-])(?:{'|'.join(DEVICE_NAMES)})(?![\w-])")


def in_python(source: str) -> Iterator[tuple[int, str]]:
    """(line, word) for each device word in code; comments and docstrings may name devices."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            if DEVICE_VALUE.fullmatch(node.value):
                yield node.lineno, node.value
            for pattern in (VENDOR_WORDS, CAPITALS):
                yield from ((node.lineno, match[0]) for match in pattern.finditer(node.value))
        for name in _names(node):
            if name in DEVICE_NAMES or VENDOR_WORDS.search(name) or CAPITALS.search(name):
                yield getattr(node, "lineno", 0), name


def _names(node: ast.AST) -> list[str]:
    """What this node calls by name."""
    match node:
        case ast.Import(names=aliases):
            parts = [part for alias in aliases for part in alias.name.split(".")]
            return parts + [alias.asname for alias in aliases if alias.asname]
        case ast.ImportFrom(module=module, names=aliases):
            parts = [*(module or "").split("."), *(alias.name for alias in aliases)]
            return parts + [alias.asname for alias in aliases if alias.asname]
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
    return []


def in_text(source: str) -> Iterator[tuple[int, str]]:
    """(line, word) for each device word in yaml or shell, comments included."""
    for number, line in enumerate(source.splitlines(), start=1):
        for pattern in (VENDOR_WORDS, CAPITALS, DEVICE_WORD):
            yield from ((number, match[0]) for match in pattern.finditer(line))


SEARCHES = {".py": in_python, ".yaml": in_text, ".yml": in_text, ".sh": in_text}
NO_CODE = (".json", ".md")
"""Data and prose: of what else lies in these folders, nothing knows a device."""


def findings() -> list[str]:
    """Every device word in scope, as `path:line: word`."""
    found: list[str] = []
    for folder in SCOPE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SEARCHES:
                words = SEARCHES[path.suffix](path.read_text(encoding="utf-8"))
                found += [f"{path.relative_to(ROOT)}:{line}: {word}" for line, word in words]
    return found
