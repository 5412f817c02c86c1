"""Everything that knows a device lives in hal/, and nothing else does."""

import pytest

from tests.structure.device_words import (
    LAUNCH_VARIABLES,
    NO_CODE,
    ROOT,
    SCOPE,
    SEARCHES,
    findings,
    in_python,
    in_text,
)


def test_no_device_word_stands_outside_hal():
    assert findings() == []


def test_no_kind_of_file_escapes_the_guard():
    paths = [path for folder in SCOPE for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds = {path.suffix for path in paths if "__pycache__" not in path.parts}
    assert kinds <= {*SEARCHES, *NO_CODE}


@pytest.mark.parametrize("name", LAUNCH_VARIABLES)
def test_an_exception_is_a_documented_launch_variable(name: str):
    assert any(f"`{name}`" in (ROOT / "docs" / page).read_text() for page in ("launch.md", "migration.md"))


@pytest.mark.parametrize(
    "code",
    [
        "torch.cuda.synchronize()",
        "tensor.cuda()",
        "model.npu()",
        "import torch_npu",
        "from torch import cuda",
        "from triton import language",
        "import flash_attn.ops",
        "backend = 'NCCL'",
        "backend = f'cpu:gloo,{x}:hccl'",
        "device = 'cuda'",
        "device = 'cuda:0'",
        "resources = {'NPU': 1}",
        "os.environ['ASCEND_RT_VISIBLE_DEVICES'] = '0'",
        "os.environ['PYTORCH_CUDA_ALLOC_CONF']",
        "use(triton=True)",
        "device = f'cuda:{index}'",
        "dist.is_nccl_available()",
        "def hccl_group(): pass",
        "import something as flash_attn",
        "os.environ['ASCEND_HOME_PATH']",
        "count = NUM_GPUS",
        "class NPUWorker: pass",
    ],
)
def test_the_guard_sees_device_words_in_python(code: str):
    assert list(in_python(code))


@pytest.mark.parametrize(
    "code",
    [
        "# torch.cuda is reached through hal",
        '"""On CUDA this is done by nccl."""',
        "nodes = os.environ['NPUS_PER_NODE']",
        "SYNONYMS = {'NPUS_PER_NODE': ('GPUS_PER_NODE',)}",
        "share = config.rollout.gpu_memory_utilization",
        "device = 'cpu'",
    ],
)
def test_the_guard_lets_pass_what_names_no_device_in_code(code: str):
    assert list(in_python(code)) == []


@pytest.mark.parametrize(
    "line",
    [
        "export HCCL_CONNECT_TIMEOUT=600",
        "accelerator: npu",
        "resources: {NPU: 8}",
        "unset CUDA_VISIBLE_DEVICES",
        "export MY_NPUS_PER_NODE=8",
        "source $ASCEND_HOME_PATH/set_env.sh",
        "export PYTORCH_NPU_ALLOC_CONF=expandable_segments:True",
    ],
)
def test_the_guard_sees_device_words_in_yaml_and_shell(line: str):
    assert list(in_text(line))


@pytest.mark.parametrize("line", ["export NPUS_PER_NODE=8", "gpu_memory_utilization: 0.4", "--num-devices"])
def test_the_guard_lets_launch_variables_pass(line: str):
    assert list(in_text(line)) == []
