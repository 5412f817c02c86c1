"""`mindrl convert` and the scripts around it: every flag is honoured, or answered with why it has no effect."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_models import assert_same_bits, tensors_of, write_model

from mindrl.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("hf") / "model", "qwen2", tied=True)


def convert(direction: str, load: Path, save: Path, *flags: str) -> int:
    source, target = direction.split("2")
    paths = ("--load-dir", str(load), "--save-dir", str(save))
    return main(["convert", "--load-model-type", source, "--save-model-type", target, *paths, *flags])


def test_the_established_flags_are_accepted_and_those_without_effect_answered(hf, tmp_path, capsys):
    flags = [
        "--use-mcore-models",
        "--model-type",
        "GPT",
        "--target-tensor-parallel-size",
        "2",
        "--target-pipeline-parallel-size",
        "2",
        "--add-qkv-bias",
        "--model-type-hf",
        "llama2",
        "--params-dtype",
        "bf16",
        "--json",
        "--tokenizer-model",
    ]
    assert convert("hf2mg", hf, tmp_path / "mcore", *flags, str(hf / "tokenizer.json")) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["family"], outcome["dtype"]) == ("qwen2", "bfloat16")
    assert outcome["num_parameters"] == sum(tensor.numel() for tensor in tensors_of(hf).values())
    notes = "\n".join(outcome["notes"])
    assert "--target-pipeline-parallel-size has no effect" in notes
    assert "--model-type-hf has no effect: config.json decides" in notes
    assert "tensor-parallel" not in notes

    flags = ["--target-tensor-parallel-size", "2", "--params-dtype", "fp32", "--json"]
    assert convert("mg2hf", tmp_path / "mcore", tmp_path / "back", *flags) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes == ["--target-tensor-parallel-size has no effect: a Hugging Face model is stored whole."]
    expected = {name: tensor.bfloat16().float() for name, tensor in tensors_of(hf).items()}
    actual = tensors_of(tmp_path / "back")
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_there_and_back_on_the_command_line_gives_the_same_bits(hf, tmp_path, capsys):
    assert convert("hf2mg", hf, tmp_path / "mcore") == 0
    assert convert("mg2hf", tmp_path / "mcore", tmp_path / "back") == 0
    assert_same_bits(tmp_path / "back", hf)
    captured = capsys.readouterr()
    assert f"-> {tmp_path / 'back'}" in captured.out
    assert "100%" in captured.err, "progress goes to stderr"


@pytest.mark.parametrize(
    ("direction", "flags", "reason"),
    [
        ("hf2hf", (), "both hf"),
        ("hf2mg", ("--hf-dir", "x"), "--hf-dir is for mg to hf"),
        ("mg2hf", (), "not a checkpoint directory"),
    ],
)
def test_requests_that_make_no_sense_are_refused(hf, tmp_path, capsys, direction, flags, reason):
    assert convert(direction, hf, tmp_path / "new", *flags) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_source_is_never_replaced(hf, capsys):
    for target in (hf, hf.parent):
        assert convert("hf2mg", hf, target, "--overwrite") == 2
        assert "the source is never replaced" in capsys.readouterr().err
    assert (hf / "model.safetensors").exists()


def test_a_bias_that_the_model_does_not_have_is_refused(tmp_path, capsys):
    llama = write_model(tmp_path / "llama", "llama")
    assert convert("hf2mg", llama, tmp_path / "mcore", "--add-qkv-bias") == 2
    assert "llama models have no bias" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_ray_nor_vllm():
    code = (
        "import sys\nfrom mindrl.cli.main import main\n"
        "try:\n    main(['convert', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(len({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "mindrl convert --load-model-type hf" in done.stdout
