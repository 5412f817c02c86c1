"""What this project asks of torch_npu, vLLM and vllm-ascend, read from its own source.

Imports and calls of imported names are found as they stand. What is called on objects needs to be told whose they are:
that is `RECEIVERS`. What vLLM calls on vllm-ascend's classes on our behalf is `CALLED_FOR_US`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch_npu", "vllm", "vllm_ascend")
ROLLOUT = sorted((ROOT / "mindrl" / "rollout").glob("vllm_*.py"))
ON_THE_HOST_ONLY = "vllm_on_host.py"
"""Never imported where the device is an NPU."""

LLM_ENGINE = "vllm.v1.engine.llm_engine.LLMEngine"
NPU_WORKER = "vllm_ascend.worker.worker.NPUWorker"
NPU_RUNNER = "vllm_ascend.worker.model_runner_v1.NPUModelRunner"
RECEIVERS = {
    "vllm_engine.py": {
        "self._engine": LLM_ENGINE,
        "self._engine.engine_core": "vllm.v1.engine.core_client.InprocClient",
        "config.model_config": "vllm.config.ModelConfig",
        "get_tp_group()": "vllm_ascend.patch.worker.patch_distributed.GroupCoordinatorPatch",
        "output": "vllm.outputs.RequestOutput",
        "completion": "vllm.outputs.CompletionOutput",
        "worker": NPU_WORKER,
        "worker.model_runner": NPU_RUNNER,
        "current_platform": "vllm_ascend.platform.NPUPlatform",
    },
    "vllm_guest.py": {
        "group": "vllm_ascend.patch.worker.patch_distributed.GroupCoordinatorPatch",
        "group.mq_broadcaster": "vllm.distributed.device_communicators.shm_broadcast.MessageQueue",
        "buffer": "vllm.distributed.device_communicators.shm_broadcast.ShmRingBuffer",
        "ModelRegistry": "vllm.model_executor.models.registry._ModelRegistry",
        "ModelRegistry.models[architecture]": "vllm.model_executor.models.registry._LazyRegisteredModel",
    },
    "vllm_arguments.py": {"current_platform": "vllm_ascend.platform.NPUPlatform"},
    "module_backed.py": {"self.module": "torch_npu.npu"},
    "npu.py": {"self.module": "torch_npu.npu", "module": "torch_npu.npu"},
}
"""Expressions and what they are, by file."""
CALLED_FOR_US = (
    (f"{NPU_WORKER}.sleep", ("level",)),
    (f"{NPU_WORKER}.wake_up", ("tags",)),
    ("vllm.v1.engine.core_client.InprocClient.sleep", ("level", "mode")),
)


@dataclass(frozen=True, slots=True)
class Use:
    """Something of a package that this project names."""

    where: str
    name: str
    """Dotted, from the package; an operator as `torch.ops.npu.<name>`."""
    positional: int | None = None
    """Arguments given by place; None where it is not called."""
    keywords: tuple[str, ...] = ()
    complete: bool = True
    """False where arguments come from a list or mapping that can't be read here."""


def all_uses() -> list[Use]:
    """Every use in `hal/` and in the files of the vLLM engine that run on an NPU."""
    files = [path for path in ROLLOUT if path.name != ON_THE_HOST_ONLY]
    files += sorted((ROOT / "hal" / "devices").glob("*.py"))
    files += sorted((ROOT / "hal" / "kernels" / "providers").glob("torch_npu*.py"))
    found = [use for path in files for use in uses_of(path)]
    return found + [Use("vLLM", name, 0, keywords) for name, keywords in CALLED_FOR_US]


def uses_of(path: Path) -> Iterator[Use]:
    """The uses in one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    short = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield Use(f"{short}:{node.lineno}", f"{node.module}.{alias.name}")
    owners = imported | RECEIVERS.get(path.name, {})
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    mappings = _mappings(tree)
    for node in ast.walk(tree):
        name = _name(node, owners)
        if name is not None:
            yield _use(f"{short}:{node.lineno}", name, called.get(id(node)), mappings)
        if isinstance(node, ast.ClassDef):
            yield from _overrides(node, short, imported)
    yield from _engine_arguments(tree, short)


def _name(node: ast.AST, owners: dict[str, str]) -> str | None:
    if isinstance(node, ast.Attribute):
        if node.attr.startswith("npu_"):
            return f"torch.ops.npu.{node.attr}"
        owner = owners.get(ast.unparse(node.value))
        return f"{owner}.{node.attr}" if owner and not node.attr.startswith("__") else None
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        owner = owners.get(node.id)
        return owner if owner and owner.rsplit(".", 1)[-1] == node.id else None
    return None


def _use(where: str, name: str, call: ast.Call | None, mappings: dict[str, list[str]]) -> Use:
    if call is None:
        return Use(where, name)
    keywords: list[str] = []
    complete = not any(isinstance(argument, ast.Starred) for argument in call.args)
    for keyword in call.keywords:
        if keyword.arg is not None:
            keywords.append(keyword.arg)
        elif isinstance(keyword.value, ast.Name) and keyword.value.id in mappings:
            keywords += mappings[keyword.value.id]
        else:
            complete = False
    positional = [argument for argument in call.args if not isinstance(argument, ast.Starred)]
    return Use(where, name, len(positional), tuple(dict.fromkeys(keywords)), complete)


def _mappings(tree: ast.Module) -> dict[str, list[str]]:
    """Names that are given dictionaries with literal keys, and all of these keys."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and isinstance(node.value, ast.Dict):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).extend(keys)
    return found


def _overrides(node: ast.ClassDef, short: str, imported: dict[str, str]) -> Iterator[Use]:
    """A method of ours on a class of theirs stands in for one of theirs."""
    for base in node.bases:
        if ast.unparse(base) in imported:
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    taken = len(item.args.args) - 1
                    yield Use(f"{short}:{item.lineno}", f"{imported[ast.unparse(base)]}.{item.name}", taken)


def _engine_arguments(tree: ast.Module, short: str) -> Iterator[Use]:
    """Keys of what `EngineArgs` is made from, and of what users may not set."""
    for name, keys in _mappings(tree).items():
        if name in ("arguments", "FIXED_ARGS"):
            yield Use(f"{short} ({name})", "vllm.engine.arg_utils.EngineArgs", 0, tuple(keys))
