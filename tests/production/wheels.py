"""Packages as pip would install them, read without installing or importing: Python names, operator schemas."""

import ast
import inspect
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

PLATFORMS = ("2_17", "2_24", "2_27", "2_28", "2_31", "2_34", "2_35")
SCHEMA = re.compile(rb"(npu_[a-z0-9_]+(?:\.[A-Za-z0-9_]+)?\([^\x00]*?\) -> [^\x00]*)\x00")


def download(requirement: str, folder: Path, machine: str = platform.machine()) -> Path:
    """The wheel that pip finds for `name==version`, Python 3.11 and Linux; kept in `folder`."""
    name, version = requirement.split("==")
    stem = f"{name.replace('-', '_')}-{version}-"
    if not any(folder.glob(f"{stem}*.whl")):
        tags = [f"--platform=manylinux_{glibc}_{machine}" for glibc in PLATFORMS]
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *tags,
            "--platform=any", "--python-version=3.11", "--implementation=cp", f"--dest={folder}", requirement,
        ]  # fmt: skip
        subprocess.run(command, check=True)
    return next(folder.glob(f"{stem}*.whl"))


@dataclass
class Packages:
    """Several wheels as one import path."""

    wheels: Sequence[Path]
    _trees: dict[str, ast.Module | None] = field(default_factory=dict)
    _looking: set[tuple[str, str]] = field(default_factory=set)
    """Modules that import from each other would be looked through for ever."""

    def __post_init__(self) -> None:
        self._archives = [zipfile.ZipFile(wheel) for wheel in self.wheels]

    def schemas(self) -> dict[str, list[inspect.Signature]]:
        """Operators of `torch.ops.npu`, by name without overload, from the text that registers them."""
        found: dict[str, list[inspect.Signature]] = {}
        for archive in self._archives:
            for name in archive.namelist():
                if name.endswith("libtorch_npu.so"):
                    for text in sorted(set(SCHEMA.findall(archive.read(name)))):
                        schema = text.decode()
                        if (
                            "Dimname" in schema
                        ):  # registered from codegen only; torch's parser does not know it
                            continue
                        operator = re.split(r"[.(]", schema, maxsplit=1)[0]
                        found.setdefault(operator, []).append(_schema_signature(schema))
        return found

    def has_module(self, module: str) -> bool:
        """Whether `import module` finds something of these wheels."""
        return self._tree(module) is not None

    def find(self, dotted: str) -> ast.AST | None:
        """The definition of `package.module.Class.member`, through imports, assignments and base classes.

        An assignment stands for a name whose definition can't be seen, such as an attribute."""
        parts = dotted.split(".")
        for length in range(len(parts), 0, -1):
            if self.has_module(".".join(parts[:length])):
                node: ast.AST | None = self._tree(".".join(parts[:length]))
                module = ".".join(parts[:length])
                for part in parts[length:]:
                    module, node = self._member(module, node, part)
                    if node is None:
                        return None
                return node
        return None

    def text(self, dotted: str) -> str:
        """The source of a definition, or of a module; empty where there is none."""
        node = self.find(dotted)
        return "" if node is None else ast.unparse(node)

    def signature(self, dotted: str) -> inspect.Signature | None:
        """What a function, a method (without self) or a class takes; None where that can't be seen."""
        node = self.find(dotted)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return _signature(node.args, drop_first=_is_bound(node))
        if isinstance(node, ast.ClassDef):
            made = self.find(f"{dotted}.__init__")
            if isinstance(made, ast.FunctionDef):
                return _signature(made.args, drop_first=True)
            return self._fields_signature(dotted, node)
        return None

    def _fields_signature(self, dotted: str, node: ast.ClassDef) -> inspect.Signature:
        """Of a class whose fields make its constructor (dataclass, pydantic, msgspec)."""
        module = dotted.rsplit(".", 1)[0]
        fields = {
            item.target.id: None
            for _, each in self._lineage(module, node)
            for item in each.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter(name, kind, default=None) for name in fields])

    def _member(self, module: str, node: ast.AST, name: str) -> tuple[str, ast.AST | None]:
        if isinstance(node, ast.Module):
            return self._in_module(module, node, name)
        if isinstance(node, ast.ClassDef):
            for home, each in self._lineage(module, node):
                found = _in_class(each, name)
                if found is not None:
                    return home, found
        return module, None

    def _in_module(self, module: str, tree: ast.Module, name: str) -> tuple[str, ast.AST | None]:
        if (module, name) in self._looking:
            return module, None
        self._looking.add((module, name))
        try:
            return self._defined(module, tree, name)
        finally:
            self._looking.remove((module, name))

    def _defined(self, module: str, tree: ast.Module, name: str) -> tuple[str, ast.AST | None]:
        for node in _statements(tree.body):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return module, node
            if isinstance(node, ast.ImportFrom):
                source = self._absolute(module, node)
                for alias in node.names:
                    if alias.name == "*" and source != module and self.has_module(source):
                        home, found = self._in_module(source, self._tree(source), name)  # type: ignore[arg-type]
                        if found is not None:
                            return home, found
                    if (alias.asname or alias.name) == name:
                        target = f"{source}.{alias.name}"
                        found = self.find(target) if target != f"{module}.{name}" else None
                        # Of a package that is not among the wheels, such as torch: the import itself stands for it.
                        return source, found if found is not None or self.has_module(source) else node
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return module, node
        return module, self._tree(f"{module}.{name}")

    def _lineage(self, module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
        """The class and, depth first, its base classes as far as they are in the wheels."""
        yield module, node
        for base in node.bases:
            tree = self._tree(module)
            name = ast.unparse(base).split("[")[0]
            if tree is None or "." in name:
                continue
            home, found = self._in_module(module, tree, name)
            if isinstance(found, ast.ClassDef) and found is not node:
                yield from self._lineage(home, found)

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = module.split(".")
        if not self._is_package(module):
            package = package[:-1]
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])

    def _is_package(self, module: str) -> bool:
        path = module.replace(".", "/") + "/__init__.py"
        return any(path in archive.NameToInfo for archive in self._archives)

    def _tree(self, module: str) -> ast.Module | None:
        if module not in self._trees:
            path = module.replace(".", "/")
            self._trees[module] = next(
                (
                    ast.parse(archive.read(name))
                    for archive in self._archives
                    for name in (f"{path}.py", f"{path}/__init__.py")
                    if name in archive.NameToInfo
                ),
                None,
            )
        return self._trees[module]


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """What a module does when it is imported, whatever it depends on."""
    for node in body:
        yield node
        for inner in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from _statements(getattr(node, inner, []))
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                yield from _statements(handler.body)


def _in_class(node: ast.ClassDef, name: str) -> ast.AST | None:
    """A method, a class attribute, or what some method sets on `self`."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == name:
            return item
        if isinstance(item, ast.AnnAssign | ast.Assign):
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return item
    for item in ast.walk(node):
        if (
            isinstance(item, ast.Attribute)
            and isinstance(item.ctx, ast.Store)
            and ast.unparse(item) == f"self.{name}"
        ):
            return item
    return None


def _is_bound(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = node.args.args[0].arg if node.args.args else ""
    return first in ("self", "cls")


def _signature(arguments: ast.arguments, *, drop_first: bool) -> inspect.Signature:
    kinds = inspect.Parameter
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    parameters = [
        kinds(each.arg, kinds.POSITIONAL_OR_KEYWORD, default=kinds.empty if index < required else None)
        for index, each in enumerate(positional)
    ][int(drop_first) :]
    if arguments.vararg:
        parameters.append(kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(
            kinds(each.arg, kinds.KEYWORD_ONLY, default=kinds.empty if default is None else None)
        )
    if arguments.kwarg:
        parameters.append(kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(parameters)


def _schema_signature(schema: str) -> inspect.Signature:
    kinds = inspect.Parameter
    return inspect.Signature(
        [
            kinds(
                "self_" if argument.name == "self" else argument.name,
                kinds.KEYWORD_ONLY if argument.kwarg_only else kinds.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else kinds.empty,
            )
            for argument in torch._C.parse_schema(f"npu::{schema}").arguments
        ]
    )
