"""Which providers have to serve on which kind of device. A kernel that is lost by mistake shows here.

To serve means: at least one sample of the op, in at least one type. On other kinds of device only the references are
expected, for they serve everywhere.
"""

from collections.abc import Mapping

_TORCH: Mapping[str, tuple[str, ...]] = {
    "rms_norm": ("torch",),
    "attention": ("torch_sdpa",),
    "rotary": ("torch",),
    "swiglu": ("torch",),
    "token_log_probs": ("torch_chunked",),
    "token_loss": ("torch_chunked",),
    "grouped_matmul": ("torch",),
    "moe_permute": ("torch",),
    "moe_unpermute": ("torch",),
    "adamw": ("torch_foreach",),
}

EXPECTED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {
        **_TORCH,
        "grouped_matmul": ("torch_grouped_mm", "torch"),
        "adamw": ("torch_fused", "torch_foreach"),
    },
    "cuda": {
        **_TORCH,
        "attention": ("torch_varlen", "torch_sdpa"),
        "grouped_matmul": ("torch_grouped_mm", "torch"),
        "adamw": ("torch_fused", "torch_foreach"),
    },
    "npu": {
        op: names if op in ("token_log_probs", "token_loss") else ("torch_npu", *names)
        for op, names in _TORCH.items()
    },
}
"""By torch's name for the kind of device, by op."""

WHERE_INSTALLED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cuda": {
        "attention": ("flash_attn",),
        "rms_norm": ("liger", "transformer_engine"),
        "swiglu": ("liger", "transformer_engine"),
    },
}
"""The same for providers whose package is somebody's choice: without it, they say that it is not installed."""


def expected(device_type: str, op: str) -> tuple[str, ...]:
    """Names of the providers that must serve, the reference among them."""
    return (*EXPECTED.get(device_type, {}).get(op, ()), "reference")
