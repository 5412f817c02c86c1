"""FP8 as it is published, made by definition: a Hugging Face directory's matrices quantised in blocks of 128 x 128."""

import json
from pathlib import Path

import torch
from hf_models import tensors_of
from safetensors.torch import save_file

QUANTIZATION_CONFIG = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
LEFT_AS_THEY_ARE = ("embed_tokens", "lm_head", "shared_head", "norm", "mlp.gate.", "bias", "eh_proj")
"""As in DeepSeek-V3: everything but the matrices of attention, MLPs and experts."""


def by_block(scales: torch.Tensor, shape: torch.Size | tuple[int, int]) -> torch.Tensor:
    """One scale a value."""
    wide = scales.float().repeat_interleave(128, dim=0)[: shape[0]]
    return wide.repeat_interleave(128, dim=1)[:, : shape[1]]


def dequantized(values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The definition."""
    return (values.float() * by_block(scales, values.shape)).to(dtype)


def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """e4m3 values and scales by which each block's largest value becomes e4m3's largest."""
    rows, columns = (-(-size // 128) for size in weight.shape)
    padded = torch.zeros(rows * 128, columns * 128)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    largest = padded.view(rows, 128, columns, 128).abs().amax(dim=(1, 3))
    scales = largest.clamp_min(1e-12) / 448
    return (weight.float() / by_block(scales, weight.shape)).to(torch.float8_e4m3fn), scales


def write_fp8_model(hf: Path, target: Path, num_files: int = 3) -> dict[str, torch.Tensor]:
    """Quantise a model into files of which the scales often lie in another than their weights, and give back its
    tensors as they should come out (bfloat16 where they were quantised)."""
    stored: dict[str, torch.Tensor] = {}
    expected: dict[str, torch.Tensor] = {}
    for name, tensor in sorted(tensors_of(hf).items()):
        if any(part in name for part in LEFT_AS_THEY_ARE):
            stored[name] = expected[name] = tensor
            continue
        values, scales = quantized(tensor)
        stored |= {name: values, f"{name}_scale_inv": scales}
        expected[name] = dequantized(values, scales, torch.bfloat16)
    save_files(stored, target, num_files)
    config = json.loads((hf / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": QUANTIZATION_CONFIG}))
    for path in hf.iterdir():
        if path.suffix == ".json" and path.name != "config.json" and "index" not in path.name:
            (target / path.name).write_bytes(path.read_bytes())
    return expected


def save_files(tensors: dict[str, torch.Tensor], target: Path, num_files: int) -> None:
    """Tensors dealt out in turn, with an index where there is more than one file."""
    target.mkdir(exist_ok=True)
    names = list(tensors)
    if num_files == 1:
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number in range(num_files):
        file = f"model-{number + 1:05d}-of-{num_files:06d}.safetensors"
        part = {name: tensors[name] for name in names[number::num_files]}
        save_file(part, target / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
