"""FP8 to bfloat16, as a step of its own and on the way to Megatron: what comes out is what the definition says."""

import torch
from fp8_models import dequantized, quantized, save_files
from hf_models import bits, tensors_of

from mindrl.checkpoint.conversion.engine import ALONE, Job, carry_out
from mindrl.checkpoint.conversion.from_fp8 import plan_from_fp8
from mindrl.checkpoint.formats.safetensors_files import read_model


def test_tensors_of_every_kind_and_shape_go_along_bit_for_bit(tmp_path):
    """No numbers, scalars, empty tensors; names that no map knows."""
    values, scales = quantized(torch.randn(130, 260))
    others = {
        "a.scalar": torch.tensor(3.5),
        "b.empty": torch.zeros(0, 4, dtype=torch.bfloat16),
        "c.line": torch.tensor([1.0, float("nan"), float("-inf"), -0.0], dtype=torch.float16),
        "d.cube": torch.randn(3, 5, 7).bfloat16(),
    }
    source, target = tmp_path / "fp8", tmp_path / "out"
    save_files({"e.weight": values, "e.weight_scale_inv": scales, **others}, source, num_files=1)
    plan = plan_from_fp8(read_model(source), source, None, None)
    carry_out(Job(plan.copy, source, target, "", {}, 0, lambda _: None, ()), ALONE, progress=False)
    assert plan.index is None
    expected = {"e.weight": dequantized(values, scales, torch.bfloat16), **others}
    actual = tensors_of(target)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(bits(actual[name].reshape(-1)), bits(tensor.reshape(-1))), name
