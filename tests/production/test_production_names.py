"""The check of production packages finds what it is for. The packages themselves are looked into on demand:
`python -m tests.production`."""

import ast
import zipfile
from pathlib import Path

import pytest

from tests.production.__main__ import NAMES, requirements
from tests.production.check import check
from tests.production.uses import RECEIVERS, ROLLOUT, ROOT, Use, all_uses, uses_of
from tests.production.wheels import Packages

MODULES = {
    "vllm/__init__.py": "if TYPE_CHECKING:\n    from vllm.engine import *\n",
    "vllm/engine.py": (
        "from .base import Base\n"
        "class Engine(Base):\n"
        "    def __init__(self, config, *, seed=0): self.steps = 0\n"
        "    def add(self, request, priority=0): ...\n"
        "class Arguments:\n"
        "    model: str\n"
        "    seed: int = 0\n"
    ),
    "vllm/base.py": "import vllm.engine\nclass Base:\n    def step(self): ...\n",
}
SCHEMAS = (
    b"\x00npu_norm(Tensor x, *, float eps=1e-06) -> Tensor\x00npu_norm.out(Tensor x, Tensor y) -> Tensor\x00"
)


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    wheel = tmp_path / "vllm-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in MODULES.items():
            archive.writestr(name, text)
        archive.writestr("torch_npu/lib/libtorch_npu.so", SCHEMAS)
    return Packages([wheel])


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        (Use("here", "vllm.Engine", 1, ("seed",)), None),
        (Use("here", "vllm.engine.Engine.add", 2), None),
        (Use("here", "vllm.Engine.step", 0), None),
        (Use("here", "vllm.Engine.steps"), None),
        (Use("here", "vllm.engine.Arguments", 0, ("model", "seed")), None),
        (Use("here", "torch.ops.npu.npu_norm", 1, ("eps",)), None),
        (Use("here", "torch.ops.npu.npu_norm", 2), None),
        (Use("here", "vllm.engine.Gone"), "does not exist"),
        (Use("here", "vllm.Engine.remove", 1), "does not exist"),
        (Use("here", "vllm.Engine.add", 0), "missing a required argument: 'request'"),
        (Use("here", "vllm.Engine.add", 1, ("prio",)), "unexpected keyword argument 'prio'"),
        (Use("here", "vllm.engine.Arguments", 0, ("sed",)), "unexpected keyword argument 'sed'"),
        (Use("here", "torch.ops.npu.npu_norm", 1, ("epsilon",)), "unexpected keyword argument 'epsilon'"),
        (Use("here", "torch.ops.npu.npu_gone", 1), "is not registered"),
    ],
)
def test_a_name_or_a_call_that_the_packages_lack_is_told(packages: Packages, use: Use, problem: str | None):
    (verdict,) = check([use], packages)
    assert (verdict.problem is None) == (problem is None)
    assert str(problem) in str(verdict.problem)


def test_imports_calls_and_mappings_of_our_source_are_uses(tmp_path: Path):
    path = tmp_path / "vllm_engine.py"
    path.write_text(
        "from vllm import Engine\n"
        "options = {'eps': 1}\n"
        "options |= {'scale': 2}\n"
        "def f(self, rest):\n"
        "    self._engine.add_request('1', rest)\n"
        "    return torch.ops.npu.npu_norm(rest, **options) + Engine(*rest)\n"
    )
    found = {use.name: use for use in uses_of(path)}
    assert found["vllm.v1.engine.llm_engine.LLMEngine.add_request"].positional == 2
    assert found["torch.ops.npu.npu_norm"].keywords == ("eps", "scale")
    assert not found["vllm.Engine"].complete


def test_every_receiver_that_the_table_names_is_in_the_source():
    paths = [*ROLLOUT, *(ROOT / "hal" / "devices").glob("*.py")]
    for path in paths:
        expressions = {
            ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.expr)
        }
        assert set(RECEIVERS.get(path.name, {})) <= expressions, path.name
    assert set(RECEIVERS) <= {path.name for path in paths}


def test_our_own_uses_reach_every_package():
    names = {use.name for use in all_uses()}
    for prefix in ("torch.ops.npu.npu_", "torch_npu.npu.", "vllm.", "vllm_ascend."):
        assert any(name.startswith(prefix) for name in names), prefix
    assert {line.split("==")[0] for line in requirements()} == set(NAMES)
