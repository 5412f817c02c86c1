"""npu_moe_token_permute and npu_moe_token_unpermute: rows sorted by expert, and back.

Every token goes to the same number k of experts. `sorted_indices[k * token + j]` is the row of the token's j-th expert.
"""

import torch

from hal.testing.virtual_npu.kernels.host import on_host
from hal.testing.virtual_npu.kernels.refusals import (
    FLOATS,
    refuse,
    refuse_other_shape,
    refuse_other_types,
)

_MAX_EXPERTS_PER_TOKEN = 512


@on_host
def npu_moe_token_permute(
    tokens: torch.Tensor, indices: torch.Tensor, num_out_tokens: int | None = None, padded_mode: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """`indices` [tokens, k] or [tokens]: experts of each token -> rows by expert, `sorted_indices` int32."""
    operator = "npu_moe_token_permute"
    _refuse_padding(operator, "padded_mode", padded_mode)
    _check_tokens(operator, "tokens", tokens)
    refuse_other_types(operator, (torch.int32, torch.int64), indices=indices)
    if indices.dim() not in (1, 2) or indices.shape[0] != tokens.shape[0]:
        refuse(
            operator,
            "indices",
            f"of shape {list(indices.shape)}",
            f"[{tokens.shape[0]}] or [{tokens.shape[0]}, k]",
        )
    by_expert = indices.flatten().argsort(stable=True)
    rows = tokens[by_expert // (indices.numel() // max(1, tokens.shape[0]))]
    return rows[: _num_rows(num_out_tokens, indices.numel())], by_expert.argsort().int()


@on_host
def npu_moe_token_permute_grad(
    tokens: torch.Tensor,
    grad_permuted_tokens: torch.Tensor,
    indices: torch.Tensor,
    sorted_indices: torch.Tensor,
    padded_mode: bool = False,
) -> torch.Tensor:
    """-> gradient of `tokens`."""
    return _sum_of_rows(
        "npu_moe_token_permute_grad", grad_permuted_tokens, sorted_indices, tokens.shape[0]
    ).to(tokens.dtype)


@on_host
def npu_moe_token_permute_grad_v2(
    grad_permuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    tokens_size_0: int,
    tokens_dtype: torch.dtype,
    num_topK: int,
    padded_mode: bool = False,
) -> torch.Tensor:
    """The same, from sizes."""
    operator = "npu_moe_token_permute_grad_v2"
    return _sum_of_rows(operator, grad_permuted_tokens, sorted_indices, tokens_size_0).to(tokens_dtype)


@on_host
def npu_moe_token_permute_with_routing_map(
    tokens: torch.Tensor,
    routing_map: torch.Tensor,
    *,
    probs: torch.Tensor | None = None,
    num_out_tokens: int | None = None,
    drop_and_pad: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """`routing_map` [tokens, experts], k ones a row -> rows by expert, their `probs`, `sorted_indices` int32."""
    operator = "npu_moe_token_permute_with_routing_map"
    _refuse_padding(operator, "drop_and_pad", drop_and_pad)
    _check_tokens(operator, "tokens", tokens)
    routed = _check_map(operator, routing_map, tokens.shape[0])
    if probs is not None:
        refuse_other_types(operator, FLOATS, probs=probs)
        refuse_other_shape(operator, "probs", probs, routing_map.shape, "the shape of 'routing_map'")
    rows = routed.T.nonzero()[:, 1]
    wanted = tokens.shape[0] if num_out_tokens is None else num_out_tokens
    if wanted != rows.numel():
        refuse(operator, "num_out_tokens", num_out_tokens, f"{rows.numel()}, the ones in 'routing_map'")
    permuted_probs = None if probs is None else probs.T[routed.T]
    return tokens[rows], permuted_probs, rows.argsort(stable=True).int()


@on_host
def npu_moe_token_permute_with_routing_map_grad(
    permuted_token_out_grad: torch.Tensor,
    probs_grad: torch.Tensor | None,
    sorted_indices: torch.Tensor,
    routing_map: torch.Tensor,
    experts_num: int,
    tokens_num: int,
    drop_and_pad: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """-> gradients of `tokens` and of `probs`, if there were any."""
    operator = "npu_moe_token_permute_with_routing_map_grad"
    routed = _check_map(operator, routing_map, tokens_num)
    of_tokens = _sum_of_rows(operator, permuted_token_out_grad, sorted_indices, tokens_num)
    if probs_grad is None or probs_grad.numel() == 0:
        return of_tokens.to(permuted_token_out_grad.dtype), None
    of_probs = probs_grad.new_zeros(experts_num, tokens_num)
    of_probs[routed.T] = probs_grad
    return of_tokens.to(permuted_token_out_grad.dtype), of_probs.T.contiguous()


@on_host
def npu_moe_token_unpermute(
    permuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    probs: torch.Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> torch.Tensor:
    """-> each token's rows, weighted by `probs` [tokens, k], summed; without `probs` a token has one row."""
    _refuse_padding("npu_moe_token_unpermute", "padded_mode", padded_mode)
    return _unpermuted("npu_moe_token_unpermute", permuted_tokens, sorted_indices, probs)


@on_host
def _npu_moe_token_unpermute(
    permuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    probs: torch.Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, and the rows once more, which torch_npu keeps for the backward."""
    _refuse_padding("npu_moe_token_unpermute", "padded_mode", padded_mode)
    return _unpermuted("npu_moe_token_unpermute", permuted_tokens, sorted_indices, probs), permuted_tokens


@on_host
def npu_moe_token_unpermute_grad(
    permuted_tokens: torch.Tensor,
    grad_unpermuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    probs: torch.Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """-> gradients of `permuted_tokens` and of `probs`."""
    return _unpermute_grad(
        grad_unpermuted_tokens, sorted_indices, permuted_tokens.shape[0], permuted_tokens.dtype, probs, permuted_tokens
    )  # fmt: skip


@on_host
def npu_moe_token_unpermute_grad_v2(
    grad_unpermuted_tokens: torch.Tensor,
    sorted_indices: torch.Tensor,
    permuted_tokens_size_0: int,
    permuted_tokens_dtype: torch.dtype,
    probs: torch.Tensor | None = None,
    padded_mode: bool = False,
    restore_shape: list[int] | None = None,
    permuted_tokens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same, from sizes; `permuted_tokens` is needed where `probs` has a gradient."""
    return _unpermute_grad(
        grad_unpermuted_tokens, sorted_indices, permuted_tokens_size_0, permuted_tokens_dtype, probs, permuted_tokens
    )  # fmt: skip


def _unpermuted(
    operator: str, permuted: torch.Tensor, sorted_indices: torch.Tensor, probs: torch.Tensor | None
) -> torch.Tensor:
    _check_tokens(operator, "permuted_tokens", permuted)
    _check_sorted(operator, sorted_indices)
    if probs is None:
        return _rows(permuted, sorted_indices).to(permuted.dtype)
    refuse_other_types(operator, FLOATS, probs=probs)
    if probs.dim() != 2 or probs.numel() != sorted_indices.numel():
        refuse(
            operator,
            "probs",
            f"of shape {list(probs.shape)}",
            f"[tokens, k] of {sorted_indices.numel()} in all",
        )
    if probs.shape[1] > _MAX_EXPERTS_PER_TOKEN:
        refuse(
            operator,
            "probs",
            f"of shape {list(probs.shape)}",
            f"at most {_MAX_EXPERTS_PER_TOKEN} experts a token",
        )
    rows = _rows(permuted, sorted_indices).reshape(*probs.shape, -1)
    return (rows * probs.float()[..., None]).sum(1).to(permuted.dtype)


def _unpermute_grad(
    grad: torch.Tensor,
    sorted_indices: torch.Tensor,
    num_rows: int,
    dtype: torch.dtype,
    probs: torch.Tensor | None,
    permuted: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    of_rows = torch.zeros(num_rows, grad.shape[1])
    wide = grad.float()
    if probs is None:
        of_rows[sorted_indices.long()] = wide
        return of_rows.to(dtype), None
    weighted = (wide[:, None] * probs.float()[..., None]).flatten(0, 1)
    inside = sorted_indices < num_rows
    of_rows[sorted_indices[inside].long()] = weighted[inside]
    assert permuted is not None, "torch_npu hands the rows over where probabilities have a gradient"
    rows = _rows(permuted, sorted_indices).reshape(*probs.shape, -1)
    return of_rows.to(dtype), (rows * wide[:, None]).sum(-1).to(probs.dtype)


def _rows(permuted: torch.Tensor, sorted_indices: torch.Tensor) -> torch.Tensor:
    """Float32 rows in the order of the tokens; zeros for those that were cut off."""
    inside = sorted_indices < permuted.shape[0]
    rows = torch.zeros(sorted_indices.numel(), permuted.shape[1])
    rows[inside] = permuted[sorted_indices[inside].long()].float()
    return rows


def _sum_of_rows(
    operator: str, grad: torch.Tensor, sorted_indices: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    _check_sorted(operator, sorted_indices)
    return _rows(grad, sorted_indices).reshape(num_tokens, -1, grad.shape[1]).sum(1)


def _num_rows(num_out_tokens: int | None, total: int) -> int:
    """As torch_npu's shape function reads it: none or 0 is all, a negative number leaves out so many."""
    wanted = num_out_tokens or 0
    return min(wanted, total) if wanted > 0 else total + wanted


def _check_tokens(operator: str, name: str, tokens: torch.Tensor) -> None:
    refuse_other_types(operator, FLOATS, **{name: tokens})
    if tokens.dim() != 2:
        refuse(operator, name, f"of shape {list(tokens.shape)}", "2 dimensions")


def _check_sorted(operator: str, sorted_indices: torch.Tensor) -> None:
    refuse_other_types(operator, (torch.int32,), sorted_indices=sorted_indices)
    if sorted_indices.dim() != 1:
        refuse(operator, "sorted_indices", f"of shape {list(sorted_indices.shape)}", "1 dimension")


def _check_map(operator: str, routing_map: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """The map as bool. Tokens with different numbers of experts are refused: the documents exclude them."""
    refuse_other_types(operator, (torch.bool, torch.int8), routing_map=routing_map)
    refuse_other_shape(
        operator, "routing_map", routing_map, (num_tokens, *routing_map.shape[1:2]), "a row for each token"
    )
    routed = routing_map.bool()
    per_token = routed.sum(1)
    if num_tokens and int(per_token.min()) != int(per_token.max()):
        refuse(
            operator, "routing_map", f"with {int(per_token.min())} to {int(per_token.max())} experts a token",
            "the same number for every token",
        )  # fmt: skip
    return routed


def _refuse_padding(operator: str, argument: str, value: bool) -> None:
    if value:
        refuse(operator, argument, value, "False: the virtual NPU does not simulate padded groups")
