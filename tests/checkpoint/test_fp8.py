"""FP8 values and their blocks' scales become, bit for bit, what the definition says: (value * scale) rounded once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fp8_models import dequantized, quantized, save_files
from hypothesis import given
from hypothesis import strategies as st

from mindrl.checkpoint.byte_plan import FP8, Record, StoredTensor, Tile
from mindrl.checkpoint.conversion import copying, fp8
from mindrl.checkpoint.formats.fp8_blocks import without_fp8
from mindrl.checkpoint.formats.safetensors_files import read_model
from mindrl.errors import RequestError

NUMBERS = torch.tensor([code for code in range(256) if code & 0x7F != 0x7F], dtype=torch.uint8)
DTYPES = [torch.bfloat16, torch.float32, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES[:2], ids=["bf16", "fp32"])


def weight(shape: tuple[int, ...], scales: torch.Tensor) -> StoredTensor:
    """Names and sizes: the arithmetic is handed the bytes."""
    dtype = str(scales.dtype).removeprefix("torch.")
    place = StoredTensor("w_scale_inv", Path("other/file"), 0, tuple(scales.shape), dtype)
    return StoredTensor("w", Path("some/file"), 0, shape, FP8, place)


def computed(
    codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype, row: int = 0, column: int = 0
) -> torch.Tensor:
    """Of codes that begin at (row, column) of a tensor with these scales."""
    first, count = fp8.blocks_of(row, len(codes))
    source = weight((len(scales) * 128, scales.shape[1] * 128), scales)
    raw_scales = scales[first : first + count].contiguous().view(torch.uint8).numpy()
    return fp8.dequantized(codes.numpy(), raw_scales, source, row, column, str(dtype).removeprefix("torch."))


def defined(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return dequantized(codes.view(torch.float8_e4m3fn), scales, dtype)


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    integers = {2: torch.int16, 4: torch.int32}[actual.element_size()]
    assert torch.equal(actual.contiguous().view(integers), expected.contiguous().view(integers))


@dtypes
def test_every_code_times_every_kind_of_scale(dtype):
    """Codes of both signs, subnormal ones and zeros; scales from float32's subnormals up to where products leave the
    range, positive, negative and zero, round and odd ones."""
    powers = torch.arange(-149.0, 119.0).exp2()
    odd = torch.rand(300, generator=torch.Generator().manual_seed(0)) * 1e-3
    scales = torch.cat([powers, 1.2345 * powers, -powers[::20], odd, torch.tensor([0.0, -0.0, 2.0**118.99])])[
        :, None
    ]
    codes = NUMBERS[:127].expand(len(scales) * 128, 127).clone()
    codes[1::2] = NUMBERS[127:]
    assert_same_bits(computed(codes, scales, dtype), defined(codes, scales, dtype))


@dtypes
def test_scales_so_large_that_the_fast_way_might_overflow(dtype):
    scales = torch.tensor([[2.0**119, 1e-3], [2.0**127, 3e38]])
    codes = torch.randint(0, 9, (200, 150), dtype=torch.uint8)  # small values: the products are in range
    assert_same_bits(computed(codes, scales, dtype), defined(codes, scales, dtype))
    codes[170, 140] = 0x7E
    with pytest.raises(
        RequestError, match=r"w in some/file: its scales of up to 3e\+38 take values out of range"
    ):
        computed(codes, scales, dtype)


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    corner=st.tuples(st.integers(0, 299), st.integers(0, 299)),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    at_once=st.sampled_from([1, 500, 1 << 19]),
    scale_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_any_rectangle_of_any_tensor(rows, columns, corner, size, at_once, scale_dtype, dtype, seed):
    """Partial blocks, and pieces that start and end anywhere in one."""
    generator = torch.Generator().manual_seed(seed)
    codes = NUMBERS[torch.randint(len(NUMBERS), (rows, columns), generator=generator)]
    scales = torch.randn(-(-rows // 128), -(-columns // 128), generator=generator).exp().to(scale_dtype)
    row, column = min(corner[0], rows - 1), min(corner[1], columns - 1)
    place = slice(row, row + size[0]), slice(column, column + size[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fp8, "_VALUES_AT_ONCE", at_once)
        actual = computed(codes[place].contiguous(), scales, dtype, row, column)
    assert_same_bits(actual, defined(codes, scales, dtype)[place])


def test_what_float16_cannot_hold_is_refused():
    codes, scales = torch.full((1, 1), 0x7E, dtype=torch.uint8), torch.tensor([[146.0]])
    assert_same_bits(computed(codes, scales, torch.float16), defined(codes, scales, torch.float16))
    with pytest.raises(RequestError, match="out of range for float16: choose --params-dtype bf16 or fp32"):
        computed(codes, scales + 1, torch.float16)


@pytest.mark.parametrize("code", [0x7F, 0xFF])
@pytest.mark.parametrize("place", [(0, 0), (127, 5), (128, 149), (199, 149)])
def test_not_a_number_is_refused_with_its_place(code, place):
    codes = NUMBERS[torch.randint(len(NUMBERS), (200, 150))]
    codes[place] = code
    row, column = place[0] + 300, place[1] + 70
    with pytest.raises(
        RequestError, match=rf"w in some/file holds NaN at row {row}, column {column}: .*Fetch it again"
    ):
        computed(codes, torch.ones(8, 8), torch.bfloat16, 300, 70)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scales_that_are_no_numbers_are_refused_with_their_place(value):
    scales = torch.ones(4, 2)
    scales[3, 1] = value
    codes = torch.zeros(500, 200, dtype=torch.uint8)
    with pytest.raises(RequestError, match=rf"w_scale_inv in other/file holds {value} at row 3, column 1"):
        computed(codes[300:], scales, torch.bfloat16, 300)
    computed(codes[:300], scales, torch.bfloat16)  # another part of the tensor


@pytest.mark.parametrize("piece_bytes", [1, 1000, 8 << 20])
def test_weights_and_scales_find_each_other_across_files(tmp_path, monkeypatch, piece_bytes):
    """Read in pieces of any size, into columns of a wider matrix."""
    monkeypatch.setattr(copying, "PIECE_BYTES", piece_bytes)
    values, scales = quantized(torch.randn(200, 300))
    plain = torch.randn(200, 5).bfloat16()
    save_files({"a.weight": values, "b.weight": plain, "a.weight_scale_inv": scales}, tmp_path, num_files=3)
    found = read_model(tmp_path)
    assert found.keys() == {"a.weight", "b.weight"}
    weight, beside = found["a.weight"], found["b.weight"]
    assert weight.scales is not None
    assert weight.scales.path != weight.path
    assert (weight.scales.shape, weight.scales.dtype) == ((2, 3), "float32")
    assert (weight.value_dtype, beside.value_dtype, beside.scales) == ("bfloat16", "bfloat16", None)

    tiles = (Tile(beside, 0, 0, 0, 0, 190, 5), Tile(weight, 10, 20, 0, 5, 190, 280))
    record = Record("both", 0, 190, 285, "bfloat16", tiles)
    sources = copying.SourceFiles()
    rows = np.concatenate([rows for _, rows in copying.pieces(record, sources)])
    sources.close()
    expected = torch.cat([plain[:190], dequantized(values, scales, torch.bfloat16)[10:, 20:]], dim=1)
    assert_same_bits(torch.from_numpy(rows).view(torch.bfloat16), expected)


FP8_TENSOR, SCALES = torch.zeros(200, 300).to(torch.float8_e4m3fn), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": FP8_TENSOR}, r"w in .* is FP8 \(200, 300\), and no file has its scales, w_scale_inv"),
        ({"w_scale_inv": SCALES}, r"w_scale_inv in .* holds scales for w, which no file has"),
        ({"w": torch.ones(200, 300), "w_scale_inv": SCALES}, r"scales for w, which is float32; expected FP8"),
        ({"w": FP8_TENSOR, "w_scale_inv": SCALES.T.contiguous()}, r"\(3, 2\), expected .* of shape \(2, 3\)"),
        ({"w": FP8_TENSOR, "w_scale_inv": torch.ones(1)}, r"float32 \(1,\), expected .* of shape \(2, 3\)"),
        (
            {"w": FP8_TENSOR, "w_scale_inv": SCALES.half()},
            r"are float16 \(2, 3\), expected float32 or bfloat16",
        ),
        ({"w": FP8_TENSOR[0].clone(), "w_scale_inv": torch.ones(3)}, r"expected .* every block of 128 x 128"),
        ({"w": torch.zeros(2, 2).to(torch.float8_e5m2)}, r"Tensor w in .* is stored as F8_E5M2"),
        ({"w": torch.zeros(2, 2, dtype=torch.int8)}, r"Tensor w in .* is stored as I8"),
    ],
)
def test_what_is_not_fp8_in_scaled_blocks_is_refused_by_name(tmp_path, tensors, message):
    save_files(tensors, tmp_path, num_files=1)
    with pytest.raises(RequestError, match=message):
        read_model(tmp_path)


PUBLISHED = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}


def test_config_json_is_understood_as_published_and_loses_its_quantisation():
    path = Path("config.json")
    assert without_fp8({"a": 1, "quantization_config": PUBLISHED}, path) == {"a": 1}
    as_transformers_writes_it = {key: value for key, value in PUBLISHED.items() if key != "fmt"}
    assert without_fp8({"quantization_config": as_transformers_writes_it}, path) == {}
    assert without_fp8({"quantization_config": None, "b": 2}, path) == {"b": 2}
    assert without_fp8({"b": 2}, path) == {"b": 2}


@pytest.mark.parametrize(
    "different",
    [
        {"quant_method": "gptq"},
        {"fmt": "e5m2"},
        {"weight_block_size": [64, 128]},
        {"weight_block_size": None},
        {"weight_block_size": "128"},
    ],
)
def test_other_quantisation_in_config_json_is_refused(different):
    with pytest.raises(RequestError, match=r"dir/config\.json: quantization_config is .* reads FP8 with"):
        without_fp8({"quantization_config": PUBLISHED | different}, Path("dir/config.json"))
    with pytest.raises(RequestError, match="quantization_config is 'fp8'"):
        without_fp8({"quantization_config": "fp8"}, Path("config.json"))
