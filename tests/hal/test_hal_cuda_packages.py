"""Kernels of packages for CUDA: why they do not serve here, and how they are called.

No GPU was at hand. The stand-ins below have the parameters of the real functions (flash-attn 2.8.3, liger-kernel 0.8.5,
TransformerEngine 2.20) and compute them with torch, so that the way from our contract to theirs and back is run; the
kernels themselves are not.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch

import hal
from hal.devices.cuda import CudaAccelerator
from hal.kernels.facts import KernelFacts
from hal.kernels.provider import NotInstalled, Provider
from hal.kernels.providers import flash_attn, liger, transformer_engine
from hal.kernels.registry import OPS
from hal.kernels.sample import SMALL, Sample
from hal.testing.kernel_checks import check_kernel

CUDA, HOST = CudaAccelerator(), hal.choose("cpu")
HALF = replace(SMALL, dtype=torch.bfloat16)
PROVIDERS = (*flash_attn.PROVIDERS, *transformer_engine.PROVIDERS, *liger.PROVIDERS)

FLASH_ATTN = """
from functools import partial
from hal.kernels.attention import each_sequence, reference

def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                    alibi_slopes=None, deterministic=False, return_attn_probs=False):
    return reference(q, k, v, softmax_scale=softmax_scale, causal=causal, dropout_p=dropout_p)

def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                           softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
                           deterministic=False, return_attn_probs=False, block_table=None):
    assert max_seqlen_q >= cu_seqlens_q.diff().max() and max_seqlen_k >= cu_seqlens_k.diff().max()
    dense = partial(flash_attn_func, dropout_p=dropout_p, softmax_scale=softmax_scale, causal=causal)
    return each_sequence(dense, q, k, v, cu_seqlens_q, cu_seqlens_k)
"""

LIGER_NORM = """
import torch
from hal.kernels.rms_norm import reference

class LigerRMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, X, W, eps, offset=0.0, casting_mode="llama", in_place=True, row_mode=None):
        assert (offset, casting_mode, in_place) == (0.0, "gemma", False)
        ctx.save_for_backward(X, W)
        ctx.eps = eps
        return reference(X, W, eps)

    @staticmethod
    def backward(ctx, dY):
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            return *torch.autograd.grad(reference(*inputs, ctx.eps), inputs, dY), None, None, None, None, None
"""

LIGER_SWIGLU = """
import torch
import torch.nn.functional as F

class LigerSiLUMulFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, gate_multiplier=1.0, down_multiplier=1.0):
        ctx.save_for_backward(a, b)
        return (F.silu(a.float()) * b).to(a.dtype) if a.dtype != torch.float64 else F.silu(a) * b

    @staticmethod
    def backward(ctx, dc):
        a, b = ctx.saved_tensors
        with torch.enable_grad():
            inputs = [t.detach().clone().requires_grad_() for t in (a, b)]
            d_a, d_b = torch.autograd.grad(F.silu(inputs[0]) * inputs[1], inputs, dc)
        a.copy_(d_a), b.copy_(d_b)  # as the real one does
        return a, b, None, None
"""

EXTENSION = """
import torch
from hal.kernels import rms_norm as norm, swiglu as gate

def rmsnorm_fwd(input, weight, eps, ln_out, quantizer, otype, sm_margin, zero_centered_gamma):
    assert (ln_out, quantizer, sm_margin, zero_centered_gamma) == (None, None, 0, False) and otype == str(input.dtype)
    return norm.reference(input, weight, eps), None, torch.rsqrt(input.float().square().mean(-1) + eps)

def rmsnorm_bwd(dz, x, rsigma, gamma, sm_margin, zero_centered_gamma):
    wide, scale = x.double(), rsigma.double()[:, None]
    normal, d_normal = wide * scale, dz.double() * gamma.double()
    d_x = scale * (d_normal - normal * (normal * d_normal).mean(-1, keepdim=True))
    return d_x.to(x.dtype), (dz.double() * normal).sum(0).to(x.dtype)

def swiglu(input, quantizer):
    assert quantizer is None and input.dim() == 2
    return gate.reference(input)

def dswiglu(grad, fwd_input, quantizer):
    with torch.enable_grad():
        x = fwd_input.detach().double().requires_grad_()
        return torch.autograd.grad(gate.reference(x), x, grad.double())[0].to(fwd_input.dtype)
"""

MODULES = {
    "flash_attn/__init__.py": FLASH_ATTN,
    "liger_kernel/ops/rms_norm.py": LIGER_NORM,
    "liger_kernel/ops/swiglu.py": LIGER_SWIGLU,
    "transformer_engine/pytorch/__init__.py": "",
    "transformer_engine/pytorch/constants.py": "import torch\nTE_DType = {t: str(t) for t in vars(torch).values() "
    "if isinstance(t, torch.dtype)}\n",
    "transformer_engine_torch.py": EXTENSION,
}
VERSIONS = {"flash-attn": "2.8.3.post2", "liger-kernel": "0.8.5", "transformer-engine": "2.20.2"}


def install(folder: Path, versions: dict[str, str], modules: dict[str, str]) -> None:
    for distribution, version in versions.items():
        facts = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    for name, text in modules.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """On the import path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    packages = {name.split("/")[0].removesuffix(".py") for name in MODULES}
    for name in [name for name in sys.modules if name.split(".")[0] in packages]:
        del sys.modules[name]


KERNELS = [
    (provider, sample)
    for provider in PROVIDERS
    for sample in OPS[provider.op].samples()
    if not (provider.op == "attention" and sample.facts.values_differ)
]


@pytest.mark.parametrize(
    ("provider", "sample"), KERNELS, ids=[f"{p.op}-{p.name}-{s.name.replace(' ', '_')}" for p, s in KERNELS]
)
def test_calls_of_theirs_give_what_our_contract_says(
    folder: Path, provider: Provider, sample: Sample
) -> None:
    install(folder, VERSIONS, MODULES)
    check_kernel(provider, HOST, sample.to(HOST.device(), torch.float32))


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: f"{p.op}-{p.name}")
def test_on_another_device_nobody_is_asked_to_install_them(provider: Provider) -> None:
    assert provider.why_not(HOST, HALF) == "runs on CUDA only, and this is cpu"


@pytest.mark.parametrize(
    ("provider", "requirement"),
    [
        (flash_attn.PROVIDERS[0], "flash-attn>=2.5.5,<3"),
        (liger.PROVIDERS[0], "liger-kernel>=0.5.2,<1"),
        (liger.PROVIDERS[1], "liger-kernel>=0.5.2,<1"),
        (transformer_engine.PROVIDERS[0], "transformer-engine[pytorch]>=2.1,<3"),
        (transformer_engine.PROVIDERS[1], "transformer-engine[pytorch]>=2.1,<3"),
    ],
)
def test_the_reason_of_a_missing_package_says_how_to_get_it(provider: Provider, requirement: str) -> None:
    distribution = requirement.split(">")[0].removesuffix("[pytorch]")
    if any(found.name == distribution for found in distributions()):
        pytest.skip(f"{distribution} is installed here")
    reason = provider.why_not(CUDA, HALF)
    assert reason == f"{requirement} is not installed; pip install '{requirement}'"
    assert isinstance(reason, NotInstalled)


@pytest.mark.parametrize("version", ["2.5.4", "3.0", "4.0.0b1"])
def test_a_version_outside_the_range_is_named(folder: Path, version: str) -> None:
    install(folder, {"flash-attn": version}, MODULES)
    reason = flash_attn.PROVIDERS[0].why_not(CUDA, HALF)
    assert reason == f"flash-attn {version} is installed, and flash-attn>=2.5.5,<3 is wanted"
    assert not isinstance(reason, NotInstalled)


def test_a_package_that_does_not_load_is_a_reason_with_its_error(folder: Path) -> None:
    install(folder, VERSIONS, {"flash_attn/__init__.py": "raise ImportError('undefined symbol: _ZN3c10')"})
    reason = flash_attn.PROVIDERS[0].why_not(CUDA, HALF)
    assert reason is not None
    assert "does not load (ImportError: undefined symbol: _ZN3c10); match it to torch" in reason


@pytest.mark.parametrize(
    ("provider", "facts", "reason"),
    [
        (flash_attn.PROVIDERS[0], SMALL, "takes torch.float16, torch.bfloat16, not torch.float32"),
        (
            flash_attn.PROVIDERS[0],
            replace(HALF, value_head_dim=4),
            "value heads as long as the others: 4 and 8",
        ),
        (flash_attn.PROVIDERS[0], replace(HALF, head_dim=512), "heads up to 256 long, not 512"),
        (liger.PROVIDERS[0], replace(HALF, hidden_size=70000), "up to 65536 features, not 70000"),
        (transformer_engine.PROVIDERS[0], replace(SMALL, dtype=torch.float64), "not torch.float64"),
    ],
)
def test_what_they_can_not_serve_comes_before_the_advice_to_install(
    provider: Provider, facts: KernelFacts, reason: str
) -> None:
    found = provider.why_not(CUDA, facts)
    assert found is not None
    assert reason in found
    assert not isinstance(found, NotInstalled)


def test_causal_attention_of_more_queries_than_keys_is_refused(folder: Path) -> None:
    install(folder, VERSIONS, MODULES)
    with pytest.raises(ValueError, match="7 queries over 5 keys"):
        flash_attn.attention(
            torch.ones(1, 7, 2, 8), torch.ones(1, 5, 2, 8), torch.ones(1, 5, 2, 8), softmax_scale=1.0
        )
