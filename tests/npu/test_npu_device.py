"""The simulated device below hal's contract: what it counts, draws, measures and shows."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hal

pytestmark = pytest.mark.usefixtures("npu")


@pytest.fixture
def runtime() -> ctypes.CDLL:
    """The simulated runtime itself, which torch_npu has loaded."""
    folder = os.environ.get("HAL_VIRTUAL_NPU")
    if folder is None:
        pytest.skip("this is no virtual NPU")
    return ctypes.CDLL(str(Path(folder) / "libvirtual_npu.so"))


@pytest.mark.parametrize(
    ("visible", "seen"),
    [(None, 4), ("2", 1), ("3,0", 2), ("", 0), ("0,7,1", 1), ("1,1", 1), ("NoDevFiles", 0)],
    ids=[
        "unset",
        "one",
        "two",
        "empty",
        "up to one that is not there",
        "up to one named twice",
        "Ray's word for none",
    ],
)
def test_visible_devices_are_counted_as_cann_counts_them(
    runtime: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: int
) -> None:
    monkeypatch.setenv("HAL_VIRTUAL_NPU_DEVICES", "4")
    if visible is None:
        monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)
    count = ctypes.c_uint32()
    error = runtime.aclrtGetDeviceCount(ctypes.byref(count))
    assert count.value == seen
    assert (error == 0) == (seen > 0)


def test_a_child_process_sees_the_devices_it_was_given() -> None:
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import torch; print(torch.npu.device_count(), torch.ones(2).npu().sum().item())"],
        env={**os.environ, "ASCEND_RT_VISIBLE_DEVICES": "1"},
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert said.stdout.split() == ["1", "2.0"]


def test_numbers_follow_seed_and_offset_and_leave_the_hosts_alone(npu: hal.Accelerator) -> None:
    device = npu.device()
    host = torch.get_rng_state()
    npu.manual_seed(3)
    drawn = [torch.rand(4, device=device), torch.nn.functional.dropout(torch.ones(64, device=device), 0.5)]
    npu.manual_seed(3)
    again = [torch.rand(4, device=device), torch.nn.functional.dropout(torch.ones(64, device=device), 0.5)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert not torch.equal(torch.rand(4, device=device), drawn[0])
    assert torch.equal(torch.get_rng_state(), host)


def test_a_generator_of_ones_own_is_followed(npu: hal.Accelerator) -> None:
    def draw(seed: int) -> torch.Tensor:
        return torch.randn(4, device=npu.device(), generator=torch.Generator(npu.device()).manual_seed(seed))

    before = npu.get_rng_state()
    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), draw(6))
    assert torch.equal(npu.get_rng_state(), before)


def test_attention_drops_the_same_pairs_forward_and_backward(npu: hal.Accelerator) -> None:
    """With query, key and value of ones the gradient of a value is the sum of the probabilities that read it."""
    query = torch.ones(1, 32, 2, 4, device=npu.device())
    value = torch.eye(32, 4, device=npu.device()).reshape(1, 32, 1, 4).expand(1, 32, 2, 4).contiguous()
    value.requires_grad_()
    npu.manual_seed(11)
    out, *_ = torch.ops.npu.npu_fusion_attention(query, query, value, 2, "BSND", keep_prob=0.5)
    out.sum().backward()
    npu.manual_seed(11)
    again, *_ = torch.ops.npu.npu_fusion_attention(query, query, value, 2, "BSND", keep_prob=0.5)
    assert torch.equal(again, out)
    # out[i, d] = p[i, d] for the first four keys, and the gradient of value j is the sum of p[., j].
    columns = out.sum((0, 1))  # [heads, 4]
    gradients = value.grad[0, :4, :, 0].T  # type: ignore[index]
    torch.testing.assert_close(gradients, columns)
    dropped = (out == 0).float().mean().item()
    assert 0.3 < dropped < 0.7


def test_dropout_in_attention_moves_the_generator_on(npu: hal.Accelerator) -> None:
    query = torch.rand(1, 16, 2, 4, device=npu.device())

    def attend(keep_prob: float) -> torch.Tensor:
        return torch.ops.npu.npu_fusion_attention(query, query, query, 2, "BSND", keep_prob=keep_prob)[0]

    npu.manual_seed(1)
    state = npu.get_rng_state()
    attend(1.0)
    assert torch.equal(npu.get_rng_state(), state)
    first = attend(0.5)
    assert not torch.equal(attend(0.5), first)
    npu.set_rng_state(state)
    assert torch.equal(attend(0.5), first)


def test_events_measure_real_time(npu: hal.Accelerator) -> None:
    start, end = (npu.Event(enable_timing=True) for _ in range(2))
    start.record()
    time.sleep(0.05)
    end.record()
    assert 50 <= start.elapsed_time(end) < 5000


def test_time_between_events_that_were_not_made_for_it_is_refused(npu: hal.Accelerator) -> None:
    start, end = npu.Event(), npu.Event(enable_timing=True)
    start.record()
    end.record()
    with pytest.raises(RuntimeError):
        start.elapsed_time(end)


def test_memory_is_counted_by_device(npu: hal.Accelerator) -> None:
    torch.npu.empty_cache()
    before = [torch.npu.mem_get_info(index)[0] for index in (0, 1)]
    block = torch.empty(64 << 20, dtype=torch.uint8, device="npu:1")
    after = [torch.npu.mem_get_info(index)[0] for index in (0, 1)]
    assert (before[0] - after[0], before[1] - after[1] >= block.numel()) == (0, True)


def test_tensors_move_between_devices(npu: hal.Accelerator) -> None:
    x = torch.arange(6, device="npu:0")
    assert x.to("npu:1").device.index == 1
    assert x.to("npu:1").tolist() == x.tolist()


def test_results_that_are_views_share_memory(npu: hal.Accelerator) -> None:
    x = torch.zeros(4, 6, device=npu.device())
    x[1:3, ::2].add_(1)
    x.t().unfold(0, 2, 2)[0, 0].fill_(7)
    assert x.sum().item() == 6 + 2 * 7
    assert x.view(torch.int32).count_nonzero().item() == 8


def test_what_is_written_through_out_is_written_on_the_device(npu: hal.Accelerator) -> None:
    target = torch.empty(0, device=npu.device())
    torch.add(torch.ones(3, device=npu.device()), 1, out=target)
    assert target.tolist() == [2, 2, 2]


def test_a_stand_in_that_has_no_code_says_its_name(runtime: ctypes.CDLL) -> None:
    said = subprocess.run(
        [sys.executable, "-S", "-c", f"import ctypes; print(ctypes.CDLL({runtime._name!r}).aclrtMapMem())"],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert said.stdout.strip() == "207000"
    assert said.stderr.strip() == "virtual NPU: aclrtMapMem was called, and is not simulated"
