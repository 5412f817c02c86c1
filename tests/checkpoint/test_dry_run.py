"""A dry run reads headers only, writes nothing, and says what the conversion then does."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hf_models import write_model
from synthetic import DEEPSEEK_V3, write_headers
from test_interrupted_conversion import contents

from mindrl.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
TO_MCORE = ("--load-model-type", "hf", "--save-model-type", "mg")
TO_HF = ("--load-model-type", "mg", "--save-model-type", "hf")


def convert(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, object]:
    """Outcome of `mindrl convert --json`."""
    assert main(["convert", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("flags", [(), ("--params-dtype", "bf16")])
def test_what_is_foretold_comes_to_pass_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
):
    write_model(tmp_path / "hf", "qwen2")
    for types, source, target in ((TO_MCORE, "hf", "mcore"), (TO_HF, "mcore", "back")):
        places = ("--load-dir", tmp_path / source, "--save-dir", tmp_path / target)
        before = contents(tmp_path)
        foretold = convert(capsys, *types, *places, *flags, "--dry-run")
        assert contents(tmp_path) == before
        assert not foretold["complete"]
        done = convert(capsys, *types, *places, *flags)
        assert "exists" in str(convert(capsys, *types, *places, *flags, "--dry-run")["notes"])
        dry_run = foretold["dry_run"]
        assert done["bytes_moved"] == done["bytes_moved_lower_bound"] == foretold["bytes_moved_lower_bound"]
        assert dry_run["total"]["bytes_to_read"] + dry_run["total"]["bytes_to_write"] == done["bytes_moved"]
        assert {key: foretold[key] for key in ("family", "dtype", "num_parameters", "num_bytes")} == {
            key: done[key] for key in ("family", "dtype", "num_parameters", "num_bytes")
        }


def test_tensors_under_two_keys_are_read_twice_which_the_lower_bound_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_model(tmp_path / "hf", "qwen3_moe")
    done = convert(capsys, *TO_MCORE, "--load-dir", tmp_path / "hf", "--save-dir", tmp_path / "mcore")
    norms = 2 * 32 * 4  # pre_mlp_layernorm of two layers, hidden size 32, float32
    assert done["bytes_moved"] == done["bytes_moved_lower_bound"] + norms


@pytest.mark.parametrize(
    ("fp8", "mtp"),
    [
        pytest.param(True, "drop", id="fp8"),
        pytest.param(False, "drop", id="bf16", marks=pytest.mark.slow),
        pytest.param(True, "keep", id="fp8-mtp", marks=pytest.mark.slow),
    ],
)
def test_671_billion_parameters_are_planned_from_headers_alone(tmp_path: Path, fp8: bool, mtp: str):
    """DeepSeek-V3, whose tensor data is not there: 163 files of headers."""
    model = write_headers(tmp_path / "model", DEEPSEEK_V3, fp8=fp8)
    assert sum(path.stat().st_blocks * 512 for path in model.iterdir()) < 50e6
    places = ["--load-dir", str(model), "--save-dir", str(tmp_path / "mcore")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys\nfrom mindrl.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "convert", *TO_MCORE, *places, "--mtp", mtp, "--dry-run", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    foretold = json.loads(done.stdout)
    dry_run = foretold["dry_run"]
    parameters = {"drop": 671_026_404_352, "keep": 682_636_472_320}[mtp]
    assert foretold["num_parameters"] == parameters
    assert 2 * parameters < foretold["num_bytes"] < 2.001 * parameters
    read = dry_run["total"]["bytes_to_read"]
    assert (1.0 if fp8 else 2.0) * parameters < read < (1.01 if fp8 else 2.001) * parameters
    assert len(dry_run["shares"]) == 4
    for kind in ("num_files", "num_records", "bytes_to_write"):
        assert sum(share[kind] for share in dry_run["shares"]) == dry_run["total"][kind]
    # Scales of one tensor may be wanted on two hosts.
    assert read <= sum(share["bytes_to_read"] for share in dry_run["shares"]) < 1.0001 * read
    largest = max(share["bytes_to_write"] for share in dry_run["shares"])
    assert largest < dry_run["total"]["bytes_to_write"] / 4 + (5 << 30)
    assert dry_run["peak_bytes"] < 768 << 20
    assert after.ru_utime - before.ru_utime < 30, "seconds of one core"
    assert not (tmp_path / "mcore").exists()


def test_people_are_told_bytes_memory_time_and_the_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = write_headers(tmp_path / "model", {**DEEPSEEK_V3, "num_hidden_layers": 4}, num_files=3)
    places = ["--load-dir", str(model), "--save-dir", str(tmp_path / "mcore")]
    assert (
        main(
            [
                "convert",
                *TO_MCORE,
                *places,
                "--mtp",
                "drop",
                "--dry-run",
                "--num-shards",
                "2",
                "--workers",
                "2",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    for words in (
        "dry run, nothing written:",
        "bytes to be moved at least:",
        "peak memory of a process: about",
        "with 2 workers",
        "GB free, ",
        "if it writes 1 GB/s",
        "--shard-index 1:",
    ):
        assert words in said
    assert not (tmp_path / "mcore").exists()
