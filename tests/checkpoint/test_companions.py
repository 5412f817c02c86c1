"""What goes with the weights, both ways: a directory complete by itself, and none of its code run unless asked for."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_models import tensors_of, write_model
from own_code import VOCABULARY, files_run, write_model_with_code
from safetensors.torch import save_file

from hal.devices.cpu import CpuAccelerator
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.cli.main import main
from mindrl.data.encoding import load_tokenizer
from mindrl.errors import RequestError
from mindrl.rollout.hf_engine import HfEngine

PAGE = Path(__file__).resolve().parents[2] / "docs/conversion.md"
KEPT = {
    "generation_config.json": b'{"eos_token_id": 2, "temperature": 0.6}',
    "tokenizer.json": b'{"model": "stand-in"}  ',
    "tokenizer_config.json": b'{"model_max_length": 32}',
    "special_tokens_map.json": b"{}",
    "added_tokens.json": b"{}",
    "vocab.json": b"{}",
    "merges.txt": b"#version: 0.2\nh e\n",
    "tokenizer.model": b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02",
    "tokenizer.model.v3": b"\n\x00",
    "qwen.tiktoken": b"IQ== 0\n",
    "tiktoken.model": b"IQ== 0\n",
    "chat_template.jinja": "{{ 'ä' }}\r\n".encode(),
    "additional_chat_templates/tool_use.jinja": b"{{ 1 }}",
    "preprocessor_config.json": b"{}",
    "LICENSE": b"Apache-2.0",
    "LICENSE.txt": b"Apache-2.0",
    "NOTICE": b"made by",
}
LEFT_OUT = {
    "README.md": b"the model card",
    "pytorch_model.bin": b"PK\x03\x04",
    "pytorch_model.bin.index.json": b"{}",
    "consolidated.00.pth": b"PK\x03\x04",
    "model.gguf": b"GGUF",
    "adapter_config.json": b"{}",
    "hf_quant_config.json": b"{}",
    "mindrl_conversion.json": b"{}",
    "modeling_qwen2.py": b"raise SystemExit",
    "tokenization_unnamed.py": b"raise SystemExit",
    ".gitattributes": b"",
}


def to_mcore(source: Path, target: Path, **options):
    return convert_hf_to_mcore(source, target, progress=False, **options)


def to_hf(source: Path, target: Path, **options):
    return convert_mcore_to_hf(source, target, progress=False, **options)


def write_files(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)


def read_files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    return write_model(tmp_path / "hf", "qwen2")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return tmp_path / "marks"


def test_all_that_makes_a_directory_complete_goes_both_ways_byte_for_byte_and_nothing_else(hf, tmp_path):
    write_files(hf, KEPT | LEFT_OUT)
    expected = KEPT | {"config.json": (hf / "config.json").read_bytes()}
    to_mcore(hf, tmp_path / "mcore")
    assert read_files(tmp_path / "mcore/hf") == expected
    to_hf(tmp_path / "mcore", tmp_path / "back")
    back = read_files(tmp_path / "back")
    assert back.items() >= expected.items()
    assert back.keys().isdisjoint(LEFT_OUT.keys() - {"mindrl_conversion.json"})
    assert not any(name.endswith((".py", ".bin", ".pth", ".index.json")) for name in back)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3"])
def test_a_real_tokenizer_goes_both_ways_byte_for_byte_and_loads(hf, tmp_path, name):
    if "MINDRL_TEST_DATA" not in os.environ:
        pytest.skip("MINDRL_TEST_DATA names no folder with real tokenizers")
    source = Path(os.environ["MINDRL_TEST_DATA"]) / "tokenizers" / name
    to_mcore(hf, tmp_path / "mcore", tokenizer=source)
    to_hf(tmp_path / "mcore", tmp_path / "back")
    tokenizer_files = read_files(source)
    assert len(tokenizer_files) >= 2
    assert read_files(tmp_path / "back").items() >= tokenizer_files.items()
    text = "Ein Ärger, 12345 <|im_start|>\n\tdef f(): 你好"
    assert load_tokenizer(tmp_path / "back").encode(text) == load_tokenizer(source).encode(text)


def test_no_code_of_a_model_is_run_by_conversion_or_by_loading_its_tokenizer(tmp_path, marks, capsys):
    hf = write_model_with_code(tmp_path / "hf", marks)
    steps = [("hf", "mg", hf, tmp_path / "mcore"), ("mg", "hf", tmp_path / "mcore", tmp_path / "back")]
    for source, target, load, save in steps:
        flags = ["--load-model-type", source, "--save-model-type", target]
        assert main(["convert", *flags, "--load-dir", str(load), "--save-dir", str(save)]) == 0
    said = capsys.readouterr().out
    assert "tokenization_tiny.py, tiny_pattern.py: the tokenizer's own code, copied as data" in said
    assert "auto_map left out of config.json" in said
    for directory in (hf, tmp_path / "back"):
        with pytest.raises(
            RequestError, match=r"is Python code of the model's own \(tokenization_tiny\.Tiny"
        ):
            load_tokenizer(directory)
    assert files_run(marks) == []

    back = tmp_path / "back"
    python = sorted(path.name for path in back.glob("*.py"))
    assert python == ["tiny_pattern.py", "tokenization_tiny.py"], "the tokenizer's, and no model code"
    for name in (*python, "tiktoken.model", "tokenizer_config.json"):
        assert (back / name).read_bytes() == (hf / name).read_bytes()
    config = json.loads((hf / "config.json").read_text())
    del config["auto_map"]
    assert json.loads((back / "config.json").read_text()) == config


def test_no_code_of_a_model_is_run_by_what_runs_the_model(tmp_path, marks):
    hf = write_model_with_code(tmp_path / "hf", marks)
    engine = HfEngine(
        hf, dtype=torch.float32, max_model_length=16, max_sequences=1, accelerator=CpuAccelerator()
    )
    engine.close()
    to_mcore(hf, tmp_path / "mcore")
    to_hf(tmp_path / "mcore", tmp_path / "back")
    assert main(["convert", "--check", str(hf), str(tmp_path / "mcore")]) == 0
    assert main(["convert", "--check", str(hf), str(tmp_path / "back"), "--check-logits"]) == 0
    assert files_run(marks) == []


def test_trust_remote_code_runs_the_tokenizers_code_alone_and_leaves_nothing_of_it_behind(tmp_path, marks):
    hf = write_model_with_code(tmp_path / "hf", marks)
    before = set(sys.modules)
    result = to_mcore(hf, tmp_path / "mcore", trust_remote_code=True)
    # one more than in the vocabulary: tokenizer_config.json adds [BOS]
    expected = f"the tokenizer loads and has {len(VOCABULARY) + 1} tokens, for 272 rows of the embedding."
    assert result.notes[-1] == expected
    assert files_run(marks) == ["tiny_pattern.py", "tokenization_tiny.py"]
    assert not any("tiny" in name for name in set(sys.modules) - before)
    assert read_files(tmp_path / "mcore/hf").keys() == {
        "config.json", "generation_config.json", "tiktoken.model", "tokenizer_config.json",
        "tiny_pattern.py", "tokenization_tiny.py",
    }  # fmt: skip


def test_who_trusts_the_result_of_a_tiktoken_model_gets_the_same_ids_and_a_tokenizer_json_by_the_pages_recipe(
    tmp_path, marks
):
    hf = write_model_with_code(tmp_path / "hf", marks, family="moonlight")
    to_mcore(hf, tmp_path / "ckpt")
    (recipe,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    texts = ["hello, heä", "a b  c\n\n 你好 hellohello x1234", " "]
    program = (
        f"{recipe}\nimport json, sys\n"
        "tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)\n"
        "ids = [tokenizer.encode(text) for text in json.loads(sys.argv[1])]\n"
        "assert [tokenizer.decode(some) for some in ids] == json.loads(sys.argv[1])\n"
        "print(json.dumps(ids))"
    )
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, json.dumps(texts)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ids = json.loads(done.stdout)
    assert ids[0] == [VOCABULARY.index(token) for token in (b"hello", b",", b" ", b"he", b"\xc3", b"\xa4")]
    assert files_run(marks) == ["tiny_pattern.py", "tokenization_tiny.py"]
    tokenizer = load_tokenizer(tmp_path / "ckpt/hf")
    assert [tokenizer.encode(text) for text in texts] == ids
    assert files_run(marks) == ["tiny_pattern.py", "tokenization_tiny.py"]


def test_with_trust_remote_code_a_tokenizer_that_does_not_fit_or_load_is_refused_before_anything_is_written(
    tmp_path, marks
):
    hf = write_model_with_code(tmp_path / "hf", marks, rows=260)
    with pytest.raises(
        RequestError, match="The tokenizer has 261 tokens, the model's embedding only 260 rows"
    ):
        to_mcore(hf, tmp_path / "mcore", trust_remote_code=True)
    (hf / "tiktoken.model").write_text("no ranks")
    with pytest.raises(RequestError, match=r"The tokenizer does not load: .*--tokenizer-model"):
        to_mcore(hf, tmp_path / "mcore", trust_remote_code=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "marks"]


def test_code_that_is_elsewhere_or_missing_is_named_and_never_fetched(tmp_path, marks):
    hf = write_model_with_code(tmp_path / "hf", marks)
    (hf / "tokenization_tiny.py").unlink()
    assert (
        "tokenization_tiny.py: the tokenizer's own code, not found here"
        in to_mcore(hf, tmp_path / "a").notes[-1]
    )
    settings = {"auto_map": {"AutoTokenizer": ["someone/else--code.Tokenizer", "../../up.Tokenizer"]}}
    (hf / "tokenizer_config.json").write_text(json.dumps(settings))
    note = to_mcore(hf, tmp_path / "b").notes[-1]
    assert (
        "someone/else--code.Tokenizer, ../../up.Tokenizer: the tokenizer's own code, not found here" in note
    )


def test_another_tokenizers_directory_replaces_every_file_of_the_old_one(hf, tmp_path):
    write_files(hf, KEPT)
    other = tmp_path / "other"
    other.mkdir()
    write_files(other, {"tokenizer.model": b"other", "config.json": b"{}", "LICENSE": b"of another model"})
    to_mcore(hf, tmp_path / "mcore", tokenizer=other)
    files = read_files(tmp_path / "mcore/hf")
    rest = (
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "LICENSE",
        "LICENSE.txt",
        "NOTICE",
    )
    assert files == {"tokenizer.model": b"other"} | {name: (hf / name).read_bytes() for name in rest}


def test_a_tokenizer_file_replaces_that_of_its_name_and_never_comes_beside_another(hf, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b"other")
    to_mcore(hf, tmp_path / "mcore", tokenizer=tmp_path / "tokenizer.json")
    assert (tmp_path / "mcore/hf/tokenizer.json").read_bytes() == b"other"
    (tmp_path / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(RequestError, match=r"two tokenizers would be there\. Give the directory"):
        to_mcore(hf, tmp_path / "again", tokenizer=tmp_path / "tokenizer.model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"empty holds no tokenizer files"):
        to_mcore(hf, tmp_path / "again", tokenizer=tmp_path / "empty")
    assert not (tmp_path / "again").exists()


def test_a_file_that_is_not_really_there_is_refused_before_anything_is_written(hf, tmp_path):
    (hf / "vocab.json").symlink_to("../blobs/gone")
    with pytest.raises(RequestError, match=r"vocab\.json is a link to \.\./blobs/gone, which does not exist"):
        to_mcore(hf, tmp_path / "mcore")
    (hf / "vocab.json").unlink()
    (hf / "merges.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(RequestError, match=r"merges\.txt is a pointer of Git LFS"):
        to_mcore(hf, tmp_path / "mcore")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_itself_a_vocabulary_is_left_out_and_said_so(hf, tmp_path, protocol):
    (hf / "word.model").write_bytes(pickle.dumps({"a": 1}, protocol))
    torch.save({}, hf / "state.model")
    (note,) = to_mcore(hf, tmp_path / "mcore").notes
    assert "state.model, word.model left out: a pickle" in note or "word.model, state.model left out" in note
    assert not list((tmp_path / "mcore/hf").glob("*.model"))


def test_a_model_without_a_tokenizer_is_converted_and_the_lack_named(hf, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (hf / name).unlink()
    (note,) = to_mcore(hf, tmp_path / "mcore").notes
    assert note == f"{hf} holds no tokenizer, and so the result has none."


@pytest.mark.parametrize(
    ("key", "written"), [("dtype", "dtype"), ("torch_dtype", "torch_dtype"), (None, "torch_dtype")]
)
def test_config_says_the_type_of_the_weights_under_the_key_that_its_transformers_knows(
    hf, tmp_path, key, written
):
    config = json.loads((hf / "config.json").read_text())
    del config["dtype"]
    (hf / "config.json").write_text(json.dumps(config | ({key: "float32"} if key else {})))
    to_mcore(hf, tmp_path / "mcore", dtype="bfloat16")
    to_hf(tmp_path / "mcore", tmp_path / "back")
    for directory in (tmp_path / "mcore/hf", tmp_path / "back"):
        assert json.loads((directory / "config.json").read_text()) == config | {written: "bfloat16"}


def test_where_types_are_mixed_config_says_that_of_most_values(hf, tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in tensors_of(hf).items()}
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    result = to_mcore(hf, tmp_path / "mcore")
    assert result.dtype == "bfloat16, float32"
    to_hf(tmp_path / "mcore", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["dtype"] == "bfloat16"
    assert tensors_of(tmp_path / "back")["model.norm.weight"].dtype == torch.float32
