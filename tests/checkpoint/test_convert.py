"""Hugging Face -> Megatron -> Hugging Face gives back every bit, and what can't be served is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hf_models import FAMILIES, assert_same_bits, bits, tensors_of, write_model
from safetensors.torch import save_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM

from mindrl.checkpoint.conversion import copying, hf_to_mcore, workers
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.conversion.engine import Work
from mindrl.errors import RequestError


def to_mcore(source: Path, target: Path, **options):
    return convert_hf_to_mcore(source, target, progress=False, **options)


def to_hf(source: Path, target: Path, **options):
    return convert_mcore_to_hf(source, target, progress=False, **options)


@pytest.mark.parametrize("family", [*FAMILIES, "deepseek_v3 with its MTP layer"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("sharded", [False, True], ids=["one_file", "many_files"])
def test_there_and_back_gives_the_same_bits(tmp_path, family, tied, dtype, sharded):
    settings, options = {"max_shard_size": "20KB" if sharded else "5GB"}, {}
    if family.endswith("MTP layer"):  # as published, with routers' biases in float32
        settings |= {"mtp": 1, "router_bias_dtype": torch.float32}
        options |= {"mtp": "keep"}
    hf = write_model(tmp_path / "hf", family.split()[0], tied=tied, dtype=dtype, **settings)
    to_mcore(hf, tmp_path / "mcore", tensor_parallel_size=2, **options)
    result = to_hf(
        tmp_path / "mcore", tmp_path / "back", max_file_bytes=20_000 if sharded else 10**9, **options
    )

    assert_same_bits(tmp_path / "back", hf)
    assert (len(list(hf.glob("*.safetensors"))) > 1) == sharded
    assert (len(list((tmp_path / "back").glob("*.safetensors"))) > 1) == sharded
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (hf / name).read_bytes()
    assert result.num_bytes == sum(tensor.nbytes for tensor in tensors_of(hf).values())


def test_from_pretrained_loads_the_result(tmp_path):
    hf = write_model(tmp_path / "hf", "qwen2", tied=True)
    to_mcore(hf, tmp_path / "mcore")
    to_hf(tmp_path / "mcore", tmp_path / "back", max_file_bytes=20_000)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(d)(ids).logits for d in (hf, tmp_path / "back")]
    assert torch.equal(*logits)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_any_number_of_parts_holds_the_same_weights(tmp_path, parts):
    hf = write_model(tmp_path / "hf", "qwen3", tied=False)
    to_mcore(hf, tmp_path / "mcore", tensor_parallel_size=parts)
    metadata = FileSystemReader(tmp_path / "mcore" / "release").read_metadata()
    chunks = {
        key: len(entry.chunks)
        for key, entry in metadata.state_dict_metadata.items()
        if hasattr(entry, "chunks")
    }
    assert chunks["decoder.layers.self_attention.linear_proj.weight"] == 2 * parts
    assert chunks["decoder.layers.mlp.linear_fc1.weight"] == 2 * 2 * parts
    assert chunks["embedding.word_embeddings.weight"] == parts
    to_hf(tmp_path / "mcore", tmp_path / "back")
    assert_same_bits(tmp_path / "back", hf)


def test_pieces_and_files_smaller_than_a_tensor_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(copying, "PIECE_BYTES", 1000)
    monkeypatch.setattr(hf_to_mcore, "LARGEST_FILE_BYTES", 10_000)
    monkeypatch.setattr(hf_to_mcore, "LARGEST_PART_BYTES", 1500)
    hf = write_model(tmp_path / "hf", "qwen2", tied=False)
    to_mcore(hf, tmp_path / "mcore")
    assert len(list((tmp_path / "mcore/release").glob("*.distcp"))) > 5
    to_hf(tmp_path / "mcore", tmp_path / "back")
    assert_same_bits(tmp_path / "back", hf)


@pytest.mark.parametrize("family_dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_byte_copy_refuses_nan_too_and_nothing_but_nan(tmp_path, family_dtype):
    hf = write_model(tmp_path / "hf", "llama", dtype=family_dtype)
    tensors = tensors_of(hf)
    weight = tensors["model.norm.weight"]
    weight[:4] = torch.tensor([float("inf"), -float("inf"), -0.0, torch.finfo(family_dtype).max])
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    to_mcore(hf, tmp_path / "mcore")
    for sign in (1, -1):
        weight[5] = torch.copysign(torch.tensor(float("nan")), torch.tensor(float(sign)))
        save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            RequestError, match=r"model.norm.weight in .*model.safetensors holds nan.*--allow-nan"
        ):
            to_mcore(hf, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "mcore"]


def test_special_values_and_not_a_number_payloads_survive_a_byte_copy_that_allows_them(tmp_path):
    hf = write_model(tmp_path / "hf", "llama", dtype=torch.bfloat16)
    tensors = tensors_of(hf)
    pattern = torch.tensor([0x7F80, 0xFF80, 0x7FC1, 0xFFA5, 0x8000, 0x0001], dtype=torch.int32).to(
        torch.uint16
    )
    tensors["model.norm.weight"][:6] = pattern.view(torch.bfloat16)
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    to_mcore(hf, tmp_path / "mcore", work=Work(allow_nan=True))
    to_hf(tmp_path / "mcore", tmp_path / "back", work=Work(allow_nan=True))
    assert_same_bits(tmp_path / "back", hf)


@pytest.mark.parametrize(
    ("source", "target"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "float16")]
)
@pytest.mark.parametrize("step", ["hf_to_mcore", "mcore_to_hf"])
def test_changing_the_type_gives_what_torch_gives_and_config_says_so(tmp_path, source, target, step):
    hf = write_model(tmp_path / "hf", "qwen2", tied=False, dtype=getattr(torch, source))
    to_mcore(hf, tmp_path / "mcore", dtype=target if step == "hf_to_mcore" else None, tensor_parallel_size=2)
    result = to_hf(tmp_path / "mcore", tmp_path / "back", dtype=target if step == "mcore_to_hf" else None)
    expected = {name: tensor.to(getattr(torch, target)) for name, tensor in tensors_of(hf).items()}
    actual = tensors_of(tmp_path / "back")
    assert all(torch.equal(bits(actual[name]), bits(expected[name])) for name in expected)
    assert result.dtype == target
    assert json.loads((tmp_path / "back/config.json").read_text())["dtype"] == target


def test_a_value_out_of_range_for_fp16_is_refused_and_nothing_is_left(tmp_path):
    hf = write_model(tmp_path / "hf", "llama")
    tensors = tensors_of(hf)
    tensors["model.norm.weight"][3] = 1e5
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"model.norm.weight .* 100000.* float16"):
        to_mcore(hf, tmp_path / "mcore", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    hf = write_model(tmp_path / "hf", "qwen2")
    to_mcore(hf, tmp_path / "mcore")
    before = (tmp_path / "mcore/release/.metadata").stat().st_mtime_ns

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "write_group", interrupt)
    with pytest.raises(KeyboardInterrupt):
        to_mcore(hf, tmp_path / "mcore", overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        to_hf(tmp_path / "mcore", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "mcore"]
    assert (tmp_path / "mcore/release/.metadata").stat().st_mtime_ns == before


def test_tied_weights_that_are_stored_twice_are_accepted_when_equal_and_refused_when_not(tmp_path):
    hf = write_model(tmp_path / "hf", "qwen2", tied=True)
    tensors = tensors_of(hf)
    twice = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(twice, hf / "model.safetensors", metadata={"format": "pt"})
    result = to_mcore(hf, tmp_path / "mcore")
    assert "lm_head.weight is the embedding" in result.notes[0]
    twice["lm_head.weight"][0, 0] += 1
    save_file(twice, hf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"ties the embeddings, but lm_head\.weight differs"):
        to_mcore(hf, tmp_path / "other")


def test_weights_that_are_not_those_of_config_json_are_refused(tmp_path):
    hf = write_model(tmp_path / "hf", "qwen2", tied=False)
    tensors = tensors_of(hf)
    tensors["score.weight"] = tensors.pop("lm_head.weight")
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"missing lm_head\.weight; unknown score\.weight"):
        to_mcore(hf, tmp_path / "mcore")
    tensors["lm_head.weight"] = tensors.pop("score.weight")[:-1].clone()
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"lm_head.weight .* \(60, 32\), config.json makes it \(61, 32\)"):
        to_mcore(hf, tmp_path / "mcore")


def test_mixed_types_in_one_megatron_tensor_need_params_dtype(tmp_path):
    hf = write_model(tmp_path / "hf", "llama")
    tensors = tensors_of(hf)
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors[name] = tensors[name].bfloat16()
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=rf"{name} \(bfloat16\).*--params-dtype"):
        to_mcore(hf, tmp_path / "mcore")
    assert to_mcore(hf, tmp_path / "mcore", dtype="bfloat16").dtype == "bfloat16"


def test_files_that_are_cut_off_are_refused(tmp_path):
    hf = write_model(tmp_path / "hf", "llama")
    weights = hf / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(RequestError, match="damaged or cut off"):
        to_mcore(hf, tmp_path / "mcore")
    weights.write_bytes(b"\xff" * 100)
    with pytest.raises(RequestError, match="not a safetensors file"):
        to_mcore(hf, tmp_path / "mcore")
    weights.unlink()
    with pytest.raises(RequestError, match=r"neither model\.safetensors nor"):
        to_mcore(hf, tmp_path / "mcore")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    hf = write_model(tmp_path / "hf", "llama")
    to_mcore(hf, tmp_path / "mcore")
    data = tmp_path / "mcore/release/__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(RequestError, match="holds no readable tensor"):
        to_hf(tmp_path / "mcore", tmp_path / "back")
    (tmp_path / "mcore/release/.metadata").write_bytes(b"nonsense")
    with pytest.raises(RequestError, match="can't be read as a checkpoint's metadata"):
        to_hf(tmp_path / "mcore", tmp_path / "back")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    to_mcore(write_model(tmp_path / "small", "llama"), tmp_path / "mcore")
    deeper = write_model(tmp_path / "deeper", "llama", num_hidden_layers=3)
    biased = write_model(tmp_path / "biased", "qwen2")
    with pytest.raises(RequestError, match=r"config.json wants \(3, "):
        to_hf(tmp_path / "mcore", tmp_path / "back", hf_dir=deeper)
    with pytest.raises(RequestError, match=r"no tensor .*linear_qkv.bias"):
        to_hf(tmp_path / "mcore", tmp_path / "back", hf_dir=biased)


def test_a_hugging_face_save_dir_is_kept_and_gets_mg2hg(tmp_path):
    hf = write_model(tmp_path / "hf", "qwen2")
    before = (hf / "model.safetensors").read_bytes()
    to_mcore(hf, tmp_path / "mcore")
    shutil.rmtree(tmp_path / "mcore/hf")
    result = to_hf(tmp_path / "mcore", hf)
    assert result.output == hf / "mg2hg"
    assert (hf / "model.safetensors").read_bytes() == before
    assert_same_bits(hf / "mg2hg", hf)
    with pytest.raises(RequestError, match=r"mg2hg exists.*--overwrite"):
        to_hf(tmp_path / "mcore", hf)
    assert to_hf(tmp_path / "mcore", hf, overwrite=True).output == hf / "mg2hg"


def test_existing_output_is_replaced_only_when_asked_for_and_only_what_is_a_result(tmp_path):
    hf = write_model(tmp_path / "hf", "qwen2")
    mcore = tmp_path / "mcore"
    to_mcore(hf, mcore)
    with pytest.raises(RequestError, match=r"exists.*--overwrite"):
        to_mcore(hf, mcore)
    to_mcore(hf, mcore, overwrite=True)
    (mcore / "iter_0000010").mkdir()
    with pytest.raises(RequestError, match=r"saved by training \(iter_0000010\)"):
        to_mcore(hf, mcore, overwrite=True)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("my life's work")
    with pytest.raises(RequestError, match="--overwrite does not replace it"):
        to_mcore(hf, precious, overwrite=True)


def test_a_tokenizer_given_by_hand_goes_with_the_result(tmp_path):
    hf = write_model(tmp_path / "hf", "qwen2")
    other = tmp_path / "tokenizer.json"
    other.write_text('{"model": "other"}')
    to_mcore(hf, tmp_path / "mcore", tokenizer=other)
    assert (tmp_path / "mcore/hf/tokenizer.json").read_text() == '{"model": "other"}'
    to_hf(tmp_path / "mcore", tmp_path / "back", tokenizer=hf)
    assert (tmp_path / "back/tokenizer.json").read_bytes() == (hf / "tokenizer.json").read_bytes()
    with pytest.raises(RequestError, match="does not exist"):
        to_hf(tmp_path / "mcore", tmp_path / "again", tokenizer=tmp_path / "nowhere")


def test_without_config_json_the_way_to_name_one_is_said(tmp_path):
    to_mcore(write_model(tmp_path / "hf", "qwen2"), tmp_path / "mcore")
    shutil.rmtree(tmp_path / "mcore/hf")
    with pytest.raises(RequestError, match="--hf-dir"):
        to_hf(tmp_path / "mcore", tmp_path / "back")
    with pytest.raises(RequestError, match="not a checkpoint directory"):
        to_hf(tmp_path / "hf", tmp_path / "back")


@pytest.mark.parametrize("family", ["qwen2", "deepseek_v3"])
def test_what_only_the_forward_pass_needs_does_not_stop_a_conversion(tmp_path, family):
    hf = write_model(tmp_path / "hf", family, tied=False)
    config = json.loads((hf / "config.json").read_text())
    stretched = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    (hf / "config.json").write_text(json.dumps(config | {"rope_parameters": stretched, "hidden_act": "gelu"}))
    to_mcore(hf, tmp_path / "mcore")
    to_hf(tmp_path / "mcore", tmp_path / "back")
    assert_same_bits(tmp_path / "back", hf)
    assert json.loads((tmp_path / "back/config.json").read_text())["rope_parameters"] == stretched
