"""FP8 to bfloat16, as a step of its own and on the way to Megatron: what comes out is what the definition says."""

import json
from pathlib import Path

import pytest
import torch
from fp8_models import dequantized, quantized, save_files, write_fp8_model
from hf_models import assert_same_bits, bits, tensors_of, write_model
from transformers import AutoModelForCausalLM

from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.conversion.engine import Work
from mindrl.checkpoint.conversion.from_fp8 import convert_fp8
from mindrl.checkpoint.expected import check_hf_weights
from mindrl.cli.main import main
from mindrl.errors import RequestError
from mindrl.weight_maps import read_architecture

SEVERAL_BLOCKS = {
    "hidden_size": 160,
    "intermediate_size": 300,
    "moe_intermediate_size": 140,
    "n_routed_experts": 4,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny DeepSeek-V3 in FP8, in three files, and its tensors as they should come out."""
    place = tmp_path_factory.mktemp("model")
    hf = write_model(place / "hf", "deepseek_v3", tied=False, dtype=torch.bfloat16, **SEVERAL_BLOCKS)
    return place / "fp8", write_fp8_model(hf, place / "fp8")


def assert_holds(directory: Path, expected: dict[str, torch.Tensor]) -> None:
    save_files(expected, directory.parent / "expected", num_files=1)
    assert_same_bits(directory, directory.parent / "expected")


def test_the_step_writes_a_plain_model_with_the_files_names(tmp_path, model):
    fp8, expected = model
    result = convert_fp8(fp8, tmp_path / "bf16", progress=False)
    assert_holds(tmp_path / "bf16", expected)
    config = json.loads((tmp_path / "bf16/config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    names = {path.name for path in fp8.iterdir()} | {"mindrl_conversion.json"}
    assert {path.name for path in (tmp_path / "bf16").iterdir()} == names
    index = json.loads((tmp_path / "bf16/model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == expected.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    assert result.num_parameters == sum(tensor.numel() for tensor in expected.values())


def test_logits_are_those_of_the_model_dequantised_by_definition(tmp_path, model):
    fp8, expected = model
    convert_fp8(fp8, tmp_path / "bf16", progress=False)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16", dtype=torch.float32)
    save_files(expected, tmp_path / "defined", num_files=1)
    (tmp_path / "defined/config.json").write_bytes((tmp_path / "bf16/config.json").read_bytes())
    defined = AutoModelForCausalLM.from_pretrained(tmp_path / "defined", dtype=torch.float32)
    unquantised = AutoModelForCausalLM.from_pretrained(fp8.parent / "hf", dtype=torch.float32)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        logits = [each(ids).logits for each in (loaded, defined, unquantised)]
    assert torch.equal(logits[0], logits[1])
    error = (logits[0] - logits[2]).norm() / logits[2].norm()
    assert 0 < error < 0.3  # e4m3 has three bits of mantissa; wrong scales give another model


def test_straight_to_megatron_is_the_step_and_then_to_megatron(tmp_path, model):
    fp8, expected = model
    convert_hf_to_mcore(fp8, tmp_path / "straight", progress=False)
    convert_fp8(fp8, tmp_path / "bf16", progress=False)
    convert_hf_to_mcore(tmp_path / "bf16", tmp_path / "in_steps", progress=False)
    weights = [
        sorted(path.glob("release/*.distcp")) for path in (tmp_path / "straight", tmp_path / "in_steps")
    ]
    assert [path.read_bytes() for path in weights[0]] == [path.read_bytes() for path in weights[1]]
    assert "quantization_config" not in json.loads((tmp_path / "straight/hf/config.json").read_text())
    convert_mcore_to_hf(tmp_path / "straight", tmp_path / "back", progress=False)
    assert_holds(tmp_path / "back", expected)


def test_both_ways_honour_the_type_that_is_asked_for(tmp_path, model):
    fp8, expected = model
    stored = {name: (tensor.dtype, tensor) for name, tensor in tensors_of(fp8).items()}
    in_float32 = {
        name: dequantized(tensor, stored[f"{name}_scale_inv"][1], torch.float32)
        for name, (dtype, tensor) in stored.items()
        if dtype == torch.float8_e4m3fn
    }
    convert_fp8(fp8, tmp_path / "step", dtype="float32", progress=False)
    assert_holds(tmp_path / "step", expected | in_float32)
    assert json.loads((tmp_path / "step/config.json").read_text())["dtype"] == "float32"
    convert_hf_to_mcore(fp8, tmp_path / "mcore", dtype="float32", progress=False)
    convert_mcore_to_hf(tmp_path / "mcore", tmp_path / "back", progress=False)
    straight = tensors_of(tmp_path / "back")
    assert all(torch.equal(straight[name], tensor) for name, tensor in in_float32.items())


def test_files_of_another_size_hosts_and_workers_change_no_tensor(tmp_path, model):
    fp8, expected = model
    for index in range(2):
        work = Work(workers=3, num_shards=2, shard_index=index)
        result = convert_fp8(fp8, tmp_path / "bf16", max_file_bytes=100_000, work=work, progress=False)
        assert result.outcome.complete == (index == 1)
    assert len(list((tmp_path / "bf16").glob("*.safetensors"))) > 3
    assert_holds(tmp_path / "bf16", expected)


def test_tensors_of_every_kind_and_shape_go_along_bit_for_bit(tmp_path):
    """No numbers, scalars, empty tensors; names and a model type that no map knows."""
    values, scales = quantized(torch.randn(130, 260))
    others = {
        "a.scalar": torch.tensor(3.5),
        "b.empty": torch.zeros(0, 4, dtype=torch.bfloat16),
        "c.line": torch.tensor([1.0, float("nan"), float("-inf"), -0.0], dtype=torch.float16),
        "d.cube": torch.randn(3, 5, 7).bfloat16(),
    }
    source = tmp_path / "fp8"
    save_files({"e.weight": values, "e.weight_scale_inv": scales, **others}, source, num_files=1)
    (source / "config.json").write_text('{"model_type": "unheard_of"}')
    result = convert_fp8(source, tmp_path / "out", work=Work(allow_nan=True), progress=False)
    assert (result.family, result.dtype) == ("unheard_of", "bfloat16, float16, float32")
    expected = {"e.weight": dequantized(values, scales, torch.bfloat16), **others}
    actual = tensors_of(tmp_path / "out")
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(bits(actual[name].reshape(-1)), bits(tensor.reshape(-1))), name


def test_a_file_that_held_scales_only_is_not_written(tmp_path):
    values, scales = quantized(torch.randn(8, 8))
    save_files({"w": values, "w_scale_inv": scales}, tmp_path / "fp8", num_files=2)
    (tmp_path / "fp8/config.json").write_text("{}")
    convert_fp8(tmp_path / "fp8", tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == [
        "model-00001-of-000002.safetensors"
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ["--from-fp8", "--load-dir", "{}", "--save-dir", "{}"],
        ["--input-fp8-hf-path", "{}", "--output-bf16-hf-path", "{}"],
    ],
)
def test_the_command_takes_its_own_flags_and_those_of_the_published_script(tmp_path, model, capsys, flags):
    fp8, expected = model
    flags[2 if flags[0] == "--from-fp8" else 1], flags[-1] = str(fp8), str(tmp_path / "bf16")
    assert main(["convert", *flags, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["complete"], said["dtype"], said["family"]) == (True, "bfloat16", "deepseek_v3")
    assert said["bytes_moved"] == said["bytes_moved_lower_bound"]
    assert_holds(tmp_path / "bf16", expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--load-model-type", "hf", "--save-model-type", "mg"], "hf to mg reads FP8 as it is"),
        (["--load-model-type", "mg"], "leave --load-model-type and --save-model-type out"),
        (["--hf-dir", "somewhere"], "--from-fp8 reads config.json in --load-dir"),
        (["--save-dir", ""], "--save-dir"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(tmp_path, model, capsys, flags, message):
    command = [
        "convert",
        "--from-fp8",
        "--load-dir",
        str(model[0]),
        "--save-dir",
        str(tmp_path / "bf16"),
        *flags,
    ]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_fp8_has_nothing_to_convert(tmp_path):
    hf = write_model(tmp_path / "hf", "llama")
    with pytest.raises(
        RequestError, match=r"hf holds no FP8 tensor \(F8_E4M3\): there is nothing to convert"
    ):
        convert_fp8(hf, tmp_path / "out", progress=False)


def test_only_the_result_of_a_conversion_is_replaced(tmp_path, model):
    precious = write_model(tmp_path / "precious", "llama")
    with pytest.raises(RequestError, match="--overwrite does not replace it"):
        convert_fp8(model[0], precious, overwrite=True, progress=False)
    convert_fp8(model[0], tmp_path / "out", progress=False)
    with pytest.raises(RequestError, match="--overwrite"):
        convert_fp8(model[0], tmp_path / "out", progress=False)
    convert_fp8(model[0], tmp_path / "out", overwrite=True, progress=False)
    assert_holds(tmp_path / "out", model[1])


@pytest.mark.parametrize("to_megatron", [False, True], ids=["step", "to_megatron"])
def test_not_a_number_in_a_file_is_refused_by_name_and_nothing_is_left(tmp_path, model, to_megatron):
    tensors = tensors_of(model[0])
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    tensors[name].view(torch.uint8)[131, 140] = 0xFF
    save_files(tensors, tmp_path / "fp8", num_files=1)
    (tmp_path / "fp8/config.json").write_bytes((model[0] / "config.json").read_bytes())
    convert = convert_hf_to_mcore if to_megatron else convert_fp8
    with pytest.raises(
        RequestError, match=rf"{name} in .*model\.safetensors holds NaN at row 131, column 140"
    ):
        convert(tmp_path / "fp8", tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["fp8"]


def test_training_from_fp8_is_refused_with_what_to_do(tmp_path, model):
    with pytest.raises(RequestError, match=r"FP8 weights; `mindrl convert --from-fp8`"):
        read_architecture(model[0])
    config = json.loads((model[0] / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match=r"are FP8 .* `mindrl convert --from-fp8 --load-dir"):
        check_hf_weights(read_architecture(tmp_path), model[0])
