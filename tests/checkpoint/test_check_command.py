"""`mindrl convert --check`: exit code 0 for the same, 1 for different, 2 for a request that makes no sense."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_models import FAMILIES, write_model

from mindrl.checkpoint.formats.safetensors_files import read_model
from mindrl.cli import check_logits
from mindrl.cli.main import main

NAME = "model.layers.1.mlp.up_proj.weight"
TO_MCORE = ("convert", "--load-model-type", "hf", "--save-model-type", "mg")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hf, mcore made of it, and other, of which three values differ and one tensor has another name."""
    root = tmp_path_factory.mktemp("check")
    for name in ("hf", "other"):
        write_model(root / name, "qwen2", tied=False)
    stored = read_model(root / "other")
    data = bytearray(stored[NAME].path.read_bytes())
    for value in (70, 71, 100):
        data[stored[NAME].offset + 4 * value + 3] ^= 0x80
    stored[NAME].path.write_bytes(data.replace(b'"lm_head.weight"', b'"lm_tail.weight"'))
    assert main([*TO_MCORE, "--load-dir", str(root / "hf"), "--save-dir", str(root / "mcore")]) == 0
    return root


def check(place: Path, *names: str, flags: tuple[str, ...] = ()) -> int:
    return main(["convert", "--check", *(str(place / name) for name in names), *flags])


def test_the_same_weights_are_told_so(place: Path, capsys: pytest.CaptureFixture[str]):
    assert check(place, "hf", "mcore") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"A  {place}/hf (Hugging Face directory)"
    assert said[1] == f"B  {place}/mcore/release (Megatron checkpoint)"
    assert said[2].startswith("equal: 27 tensors, 0.1 MB, bit for bit")
    assert check(place, "mcore", "hf", flags=("--json",)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["equal"], found["num_equal"], found["different"]) == (True, 27, [])


def test_what_differs_is_told_with_values_and_places(place: Path, capsys: pytest.CaptureFixture[str]):
    assert check(place, "other", "mcore") == 1
    said = capsys.readouterr().out
    assert "only in A: lm_tail.weight" in said
    assert "only in B: lm_head.weight" in said
    assert f"{NAME}: 3 of 1,536 values differ, by at most " in said
    assert "first at [2, 6]: A " in said
    assert f"({place}/other/model.safetensors, byte " in said
    assert f"({place}/mcore/release/__0_0.distcp, byte " in said
    assert "different: 1 tensors differ, 2 are on one side only, 25 are equal" in said
    assert check(place, "other", "mcore", flags=("--json",)) == 1
    (difference,) = json.loads(capsys.readouterr().out)["different"]
    assert (difference["name"], difference["index"], difference["num_different"]) == (NAME, [2, 6], 3)
    assert difference["left"]["value"] == -difference["right"]["value"]
    assert difference["max_abs"] >= 2 * abs(difference["left"]["value"])


def test_a_converted_directory_is_checked_against_its_own_checksums(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*TO_MCORE, "--load-dir", str(place / "hf"), "--save-dir", str(tmp_path / "copy")]) == 0
    capsys.readouterr()
    assert check(tmp_path, "copy") == 0
    assert capsys.readouterr().out.startswith(f"intact: {tmp_path}/copy/release: ")
    file = tmp_path / "copy/release/__0_0.distcp"
    file.write_bytes(file.read_bytes()[:-1])
    assert check(tmp_path, "copy") == 1
    said = capsys.readouterr().out
    assert said.startswith(f"damaged: {tmp_path}/copy/release: ")
    assert f"{file} has {file.stat().st_size} bytes and was written with {file.stat().st_size + 1}" in said
    assert "Convert the weights again" in said
    assert check(tmp_path, "copy", flags=("--json",)) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["intact"], len(found["damage"])) == (False, 1)


def test_a_conversion_can_check_itself(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ("--load-dir", str(place / "hf"), "--save-dir", str(tmp_path / "new"), "--check")
    assert main([*TO_MCORE, *flags]) == 0
    assert "equal: 27 tensors" in capsys.readouterr().out
    assert main([*TO_MCORE, *flags, "--params-dtype", "bf16", "--overwrite", "--json", "--check-logits"]) == 0
    checked = json.loads(capsys.readouterr().out)["check"]
    assert checked["converted"] == [{"left": "float32", "right": "bfloat16", "num_tensors": 27}]
    assert not checked["different"]
    assert checked["logits"]["max_difference"] < 1e-5, "beside weights that are rounded as well"


def test_a_conversion_from_a_checkpoint_checks_the_checkpoint_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(place / "mcore", tmp_path / "mcore")
    to_hf = (
        "convert",
        "--load-model-type",
        "mg",
        "--save-model-type",
        "hf",
        "--load-dir",
        str(tmp_path / "mcore"),
    )
    assert main([*to_hf, "--save-dir", str(tmp_path / "sound"), "--check"]) == 0
    said = capsys.readouterr().out
    assert f"intact: {tmp_path}/mcore/release" in said
    assert "equal: 27 tensors" in said
    file = tmp_path / "mcore/release/__0_0.distcp"
    recorded = json.loads((file.parent / "mindrl_conversion.json").read_text())["files"][file.name]["records"]
    data = bytearray(file.read_bytes())
    data[recorded["embedding.word_embeddings.weight (0, 0)"][0]] ^= 1
    file.write_bytes(data)
    assert main([*to_hf, "--save-dir", str(tmp_path / "damaged"), "--check"]) == 2
    assert f"{file} is damaged: " in capsys.readouterr().err
    assert not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_logits_of_transformers_and_of_the_checkpoint_in_megatron_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, dtype: str
):
    hf = write_model(tmp_path / "hf", family, tied=False, dtype=getattr(torch, dtype))
    flags = ("--load-dir", str(hf), "--save-dir", str(tmp_path / "mcore"), "--check-logits", "--json")
    assert main([*TO_MCORE, *flags]) == 0
    logits = json.loads(capsys.readouterr().out)["check"]["logits"]
    assert logits["max_difference"] < 1e-5
    assert (logits["top_1_agreement"], logits["num_places"]) == (1.0, 96)
    assert not torch.distributed.is_initialized(), "the process group of the check goes with it"


def test_logits_of_weights_that_a_conversion_rounded_are_those_of_rounded_weights(tmp_path: Path):
    """Else a router that sends a token elsewhere for a rounded weight would look like a wrong conversion."""
    hf = write_model(tmp_path / "hf", "moonlight")
    flags = ("--load-dir", str(hf), "--save-dir", str(tmp_path / "mcore"), "--params-dtype", "bf16")
    assert main([*TO_MCORE, *flags, "--check-logits"]) == 0


def test_logits_show_what_the_weights_do_not(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*TO_MCORE, "--load-dir", str(place / "hf"), "--save-dir", str(tmp_path / "mcore")]) == 0
    config = tmp_path / "mcore/hf/config.json"
    config.write_text(config.read_text().replace("10000.0", "10001.0"))
    capsys.readouterr()
    both = ("--check", str(place / "hf"), str(tmp_path / "mcore"))
    assert main(["convert", *both]) == 0
    assert main(["convert", *both, "--check-logits"]) == 1
    said = capsys.readouterr().out
    assert "equal: 27 tensors" in said
    assert "LOGITS DIFFER" in said


def test_a_model_that_does_not_fit_into_memory_is_not_run(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(check_logits, "BYTES_PER_PARAMETER", 10**10)
    assert check(place, "hf", "mcore", flags=("--check-logits",)) == 2
    said = capsys.readouterr().err
    assert "to run it in float32 takes" in said
    assert "Leave --check-logits out" in said


@pytest.mark.parametrize(
    ("names", "flags", "told"),
    [
        (("hf", "mcore", "other"), (), "it takes one, or two to compare"),
        (("hf",), (), "no mindrl_conversion.json in it"),
        (("hf", "nowhere"), (), "nowhere is not a directory"),
        (("mcore",), ("--check-logits",), "name the other one too"),
        (("hf", "mcore"), ("--load-dir", "hf", "--dry-run"), "leave out --load-dir, --dry-run, or leave the"),
        ((), (), "--load-dir, --save-dir must be given"),
    ],
)
def test_checks_that_make_no_sense_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], flags: tuple[str, ...], told: str
):
    assert check(place, *names, flags=flags) == 2
    assert told in capsys.readouterr().err


def test_on_a_command_line_the_report_is_all_there_is_on_stdout(place: Path):
    command = [sys.executable, "-m", "mindrl", "convert", "--check", "hf", "mcore", "--check-logits"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["A", "B", "equal:", "logits"]
    assert "Warning" not in done.stderr
