"""Find the places in a module's source that name one vendor's device in a way `hal.redirect` can't reach."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import hal
from hal.cuda_facade import CudaFacade

# `hal.redirect` is the function; the module of the same name holds the table.
REDIRECTED_FACTORIES = {*sys.modules["hal.redirect"]._FACTORIES, "device"}
TENSOR_MEMBERS = ("cuda", "is_cuda", "pin_memory")


@dataclass(frozen=True, order=True)
class DeviceCall:
    """One such place."""

    module: str
    function: str
    """Qualified name of the enclosing function or class; empty at module level."""
    line: int
    source: str


def device_calls(module: ModuleType) -> Iterator[DeviceCall]:
    """All of a module's, in the order of its lines."""
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    lines = source.splitlines()
    finder = _Finder(CudaFacade(hal.choose("cpu")))
    finder.visit(ast.parse(source))
    for function, line in finder.found:
        yield DeviceCall(module.__name__, function, line, lines[line - 1].strip())


class _Finder(ast.NodeVisitor):
    def __init__(self, facade: CudaFacade) -> None:
        self.facade = facade
        self.found: list[tuple[str, int]] = []
        self.scope: list[str] = []
        self.redirected: set[ast.AST] = set()

    def report(self, node: ast.AST) -> None:
        self.found.append((".".join(self.scope), node.lineno))  # type: ignore[attr-defined]

    def visit_scope(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        self.scope.append(node.name)
        body = node.body
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            self.redirected.add(body[0].value)  # the docstring
        self.generic_visit(node)
        self.scope.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_scope

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").startswith("torch.cuda"):
            self.report(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        from_torch = isinstance(function, ast.Attribute) and _is_torch(function.value)
        if from_torch and function.attr in REDIRECTED_FACTORIES:
            self.redirected.update(node.args)
            self.redirected.update(keyword.value for keyword in node.keywords)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        inner = node.value
        if isinstance(inner, ast.Attribute) and inner.attr == "cuda" and _is_torch(inner.value):
            if not hasattr(self.facade, node.attr):
                self.report(node)
            return
        if node.attr in TENSOR_MEMBERS and not _is_torch(inner):
            self.report(node)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if not isinstance(text, str) or node in self.redirected:
            return
        if text == "cuda" or text.startswith(("cuda:", "torch.cuda.")):
            self.report(node)


def _is_torch(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "torch"
