"""What the mask arguments of npu_fusion_attention hide."""

from dataclasses import dataclass

import torch

from hal.testing.virtual_npu.kernels.refusals import refuse, refuse_other_types

FULL, ALL, LEFT_UP_CAUSAL, RIGHT_DOWN_CAUSAL, BAND = range(5)
"""Values of sparse_mode that are simulated; 5 to 8 (prefixes, and sequences split over devices) are not."""

COMPRESSED = 2048
"""Modes 2 to 4 take one triangle of this size, whatever the lengths."""

_UNLIMITED = 2147483647


@dataclass(frozen=True, slots=True)
class Masks:
    """The mask arguments of one call."""

    atten_mask: torch.Tensor | None
    sparse_mode: int
    pre_tokens: int
    next_tokens: int

    def hidden(self, query_length: int, key_length: int) -> torch.Tensor | None:
        """bool, broadcastable to [batch, heads, query_length, key_length]: True is hidden. None: nothing is."""
        shift = key_length - query_length
        if self.atten_mask is None:
            return None
        if self.sparse_mode == LEFT_UP_CAUSAL:
            return _outside(query_length, key_length, before=_UNLIMITED, after=0)
        if self.sparse_mode == RIGHT_DOWN_CAUSAL:
            return _outside(query_length, key_length, before=_UNLIMITED, after=shift)
        if self.sparse_mode == BAND:
            return _outside(
                query_length, key_length, before=self.pre_tokens - shift, after=self.next_tokens + shift
            )
        # A packed call has one mask for the longest sequence; the others use its corner.
        return self.atten_mask.bool()[..., :query_length, :key_length]


def read(
    operator: str,
    atten_mask: torch.Tensor | None,
    sparse_mode: int,
    pre_tokens: int,
    next_tokens: int,
    scores: tuple[int, int, int, int],
    *,
    packed: bool,
) -> Masks:
    """The mask arguments, or a refusal. `scores`: batch, heads, longest query and key length."""
    if sparse_mode not in range(5):
        refuse(operator, "sparse_mode", sparse_mode, "0 to 4; the virtual NPU does not simulate the others")
    masks = Masks(atten_mask, sparse_mode, pre_tokens, next_tokens)
    if atten_mask is None:
        if sparse_mode != FULL:
            refuse(
                operator, "atten_mask", "not given",
                f"the mask of sparse_mode {sparse_mode}; without one the device attends to everything",
            )  # fmt: skip
        return masks
    refuse_other_types(operator, (torch.bool, torch.uint8), atten_mask=atten_mask)
    if sparse_mode in (LEFT_UP_CAUSAL, RIGHT_DOWN_CAUSAL, BAND):
        _refuse_other_triangle(operator, atten_mask, sparse_mode)
        return masks
    batch, heads, longest_q, longest_k = scores
    full = (longest_q, longest_k)
    shapes = [full] if packed else [(batch, heads, *full), (batch, 1, *full), (1, 1, *full), full]
    if tuple(atten_mask.shape) not in shapes:
        refuse(
            operator,
            "atten_mask",
            f"of shape {list(atten_mask.shape)}",
            " or ".join(str(list(shape)) for shape in shapes),
        )
    if sparse_mode == FULL:
        _refuse_other_band(operator, masks, longest_q, longest_k)
    return masks


def _outside(query_length: int, key_length: int, *, before: int, after: int) -> torch.Tensor:
    """Hidden is what lies more than `before` keys before query i, or more than `after` keys after it."""
    ahead = torch.arange(key_length)[None, :] - torch.arange(query_length)[:, None]
    return (ahead > after) | (ahead < -before)


def _refuse_other_triangle(operator: str, mask: torch.Tensor, sparse_mode: int) -> None:
    size = (COMPRESSED, COMPRESSED)
    if tuple(mask.shape[-2:]) != size or mask.numel() != COMPRESSED * COMPRESSED:
        refuse(
            operator, "atten_mask", f"of shape {list(mask.shape)}",
            f"{list(size)}, the compressed mask of sparse_mode {sparse_mode}",
        )  # fmt: skip
    flat = mask.reshape(size).bool()
    if not torch.equal(flat, torch.ones(size, dtype=torch.bool).triu(1)):
        refuse(operator, "atten_mask", "another pattern", "ones (hidden) above the diagonal, zeros elsewhere")


def _refuse_other_band(operator: str, masks: Masks, query_length: int, key_length: int) -> None:
    """In mode 0 the device skips what lies outside the band, whatever the mask says of it."""
    if masks.pre_tokens >= query_length and masks.next_tokens >= key_length:
        return
    assert masks.atten_mask is not None
    outside = _outside(query_length, key_length, before=masks.pre_tokens, after=masks.next_tokens)
    if bool((outside & ~masks.atten_mask.bool()).any()):
        refuse(
            operator, "atten_mask", "open where 'pre_tockens' and 'next_tockens' say that nothing is computed",
            f"ones outside the band of {masks.pre_tokens} before and {masks.next_tokens} after",
        )  # fmt: skip
