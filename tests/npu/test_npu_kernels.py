"""torch_npu's kernels beyond the samples of hal.testing: what is chosen, what is refused, types that differ."""

from dataclasses import replace

import pytest
import torch

import hal
from hal.kernels import attention as attention_op
from hal.kernels import moe_permute as permute_op
from hal.kernels import rms_norm as norm_op
from hal.kernels import rotary as rotary_op
from hal.kernels.providers.torch_npu_attention import attention
from hal.kernels.providers.torch_npu_layers import rms_norm, rotary
from hal.kernels.providers.torch_npu_moe import moe_permute, moe_unpermute
from hal.kernels.providers.torch_npu_optimizer import adamw
from hal.kernels.sample import SMALL, normal

pytestmark = pytest.mark.usefixtures("npu")

FACTS = replace(SMALL, dtype=torch.bfloat16, packed=True, num_experts=8, expert_size=16, experts_per_token=2)


def on_npu(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return normal(*shape, seed=seed).to("npu", dtype)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found.cpu().double(), wanted.double(), rtol=tolerance, atol=tolerance)


def test_a_model_on_an_npu_gets_torch_npus_kernels(npu: hal.Accelerator) -> None:
    chosen = hal.select(npu, replace(FACTS, own_optimizer=True)).providers
    ours = {"token_log_probs", "token_loss"}
    assert {op for op, name in chosen.items() if name != "torch_npu"} == ours


@pytest.mark.parametrize(
    ("op", "differs", "reason"),
    [
        ("attention", {"value_head_dim": 16}, "value heads no longer than the others: 16 is more than 8"),
        ("attention", {"head_dim": 1024}, "heads up to 768 long, not 1024"),
        ("attention", {"num_heads": 512}, "up to 256 heads, not 512"),
        ("rotary", {"head_dim": 1024}, "heads up to 894 long, not 1024"),
        ("moe_permute", {"experts_per_token": None}, "experts_per_token is not known"),
        ("moe_unpermute", {"experts_per_token": 512}, "up to 511 experts a token, not 512"),
        ("grouped_matmul", {"hidden_size": 65536}, "up to 65535 columns, not 65536"),
    ],
)
def test_what_documents_do_not_allow_is_another_kernels_with_the_reason(
    npu: hal.Accelerator, op: str, differs: dict[str, int | None], reason: str
) -> None:
    kernels = hal.select(npu, replace(FACTS, **differs))
    assert reason in kernels.reasons[op]["torch_npu"]
    assert kernels.providers[op] != "torch_npu"
    with pytest.raises(hal.KernelUnavailableError, match="'torch_npu' was asked for and can't serve it"):
        hal.select(npu, replace(FACTS, **differs), {op: "torch_npu"})


def test_packed_lengths_that_do_not_end_with_the_tokens_are_refused() -> None:
    q = on_npu(17, 4, 8)
    with pytest.raises(
        ValueError, match=r"2 sequences of queries end at \[16\].* and there are 17 and 17 tokens"
    ):
        attention(q, q, q, softmax_scale=1.0, cu_seqlens=torch.tensor([0, 5, 16], device="npu"))


def test_queries_that_would_see_no_key_are_refused() -> None:
    q, k = on_npu(1, 7, 4, 8), on_npu(1, 5, 4, 8)
    with pytest.raises(ValueError, match="7 queries over 5 keys"):
        attention(q, k, k, softmax_scale=1.0)
    ends, ends_k = (torch.tensor(ends, device="npu") for ends in ([0, 3, 7], [0, 5, 8]))
    with pytest.raises(ValueError, match="4 queries over 3 keys"):
        attention(
            q[0], on_npu(8, 4, 8), on_npu(8, 4, 8), softmax_scale=1.0, cu_seqlens=ends, cu_seqlens_k=ends_k
        )


def test_lengths_that_change_in_place_are_fetched_again() -> None:
    q, k, v = (on_npu(17, 4, 8, seed=seed) for seed in range(3))
    ends = torch.tensor([0, 5, 17], dtype=torch.int32, device="npu")
    for end in (5, 9):
        ends[1] = end
        found = attention(q, k, v, softmax_scale=0.3, cu_seqlens=ends)
        host = (tensor.cpu() for tensor in (q, k, v))
        wanted = attention_op.reference(*host, softmax_scale=0.3, cu_seqlens=ends.cpu())
        assert_close(found, wanted, 1e-5)


def test_attention_that_was_first_called_in_inference_mode_has_gradients_later() -> None:
    q = on_npu(1, 5, 4, 8)
    with torch.inference_mode():
        attention(q, q, q, softmax_scale=1.0)
    q.requires_grad_()
    attention(q, q, q, softmax_scale=1.0).sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_turns_batches_beyond_the_operators_limit(interleaved: bool) -> None:
    x = on_npu(2, 1001, 3, 8)
    cos, sin = (t.float() for t in rotary_op.angles(2, 8, interleaved=interleaved))
    found = rotary(x, cos.to(x.device), sin.to(x.device), interleaved=interleaved)
    assert_close(found, rotary_op.reference(x.cpu(), cos, sin, interleaved=interleaved), 1e-5)


def test_angles_wider_than_what_they_turn_keep_their_digits() -> None:
    x = on_npu(7, 2, 3, 8, dtype=torch.bfloat16)
    cos, sin = (t.float() for t in rotary_op.angles(7, 8))
    found = rotary(x, cos.to(x.device), sin.to(x.device))
    assert torch.equal(found.cpu(), rotary_op.reference(x.cpu(), cos, sin))


def test_norm_takes_a_weight_of_a_wider_type() -> None:
    x, weight = on_npu(5, 32, dtype=torch.bfloat16), on_npu(32, seed=1)
    assert_close(rms_norm(x, weight, 1e-6), norm_op.reference(x.cpu(), weight.cpu(), 1e-6), 2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_permuted_probs_keep_a_type_wider_than_the_tokens(dtype: torch.dtype) -> None:
    x, probs = on_npu(13, 32, dtype=dtype), on_npu(13, 8, seed=1)
    routing_map = permute_op.routing(13, 8, 2, seed=1)
    found = moe_permute(x, routing_map.to(x.device), probs)
    for result, wanted in zip(found, permute_op.reference(x.cpu(), routing_map, probs.cpu()), strict=True):
        assert result is not None
        assert wanted is not None
        assert result.dtype == wanted.dtype
        assert torch.equal(result.cpu(), wanted)


def test_maps_with_tokens_of_fewer_experts_are_refused() -> None:
    x, routing_map = on_npu(13, 32), permute_op.routing(13, 8, 2, seed=1)
    routing_map[4] = False
    with pytest.raises(ValueError, match="tokens have 0 to 2 experts"):
        moe_permute(x, routing_map.to(x.device))
    with pytest.raises(ValueError, match="tokens have 1 to 2 experts"):
        moe_permute(x, routing_map.to(x.device), num_rows=24)
    with pytest.raises(ValueError, match="24 rows are not the same number for each of 13 tokens"):
        moe_unpermute(on_npu(24, 32), torch.zeros(24, dtype=torch.int64, device=x.device), num_tokens=13)


def test_autograd_notices_that_a_step_changed_what_it_needs() -> None:
    weight, state = on_npu(4).requires_grad_(), [on_npu(4).abs() for _ in range(2)]
    loss = (weight * weight).sum()
    adamw(
        [weight],
        [on_npu(4)],
        *([tensor] for tensor in state),
        step=1,
        lr=0.1,
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        weight_decay=0.0,
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_tokens_at_all_are_permuted_and_have_gradients() -> None:
    x = on_npu(0, 32).requires_grad_()
    permuted, _, row_ids = moe_permute(x, torch.zeros(0, 8, dtype=torch.bool, device=x.device))
    moe_unpermute(permuted, row_ids, num_tokens=0).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 32)
