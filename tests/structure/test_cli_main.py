"""The command line: light help, exit codes, messages."""

import errno
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mindrl.cli import main as cli
from mindrl.errors import RequestError

HEAVY = ("torch", "ray", "vllm", "transformers", "megatron", "pyarrow", "matplotlib")
PROBE = f"""
import sys
from mindrl.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    assert ended.code == 0, ended.code
heavy = sorted(set({HEAVY}) & set(sys.modules))
assert not heavy, heavy
"""


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_shows_an_example_and_imports_nothing_heavy(command: str | None, tmp_path: Path):
    arguments = [command, "--help"] if command else ["--help"]
    done = python("-c", PROBE, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "example:\n  mindrl" in done.stdout


def test_help_lists_every_command_with_a_summary(tmp_path: Path):
    done = python("-m", "mindrl", "--help", folder=tmp_path)
    assert [name for name in cli.COMMANDS if f"\n  {name} " not in done.stdout] == []


def test_no_command_is_answered_by_the_help_and_code_2(tmp_path: Path):
    done = python("-m", "mindrl", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "commands:" in done.stderr


def test_a_misspelt_command_is_answered_by_the_nearest(tmp_path: Path):
    done = python("-m", "mindrl", "convrt", folder=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "mindrl convrt: no such command; did you mean `mindrl convert`?\n",
    )


def test_a_bad_configuration_is_one_message_and_code_2(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("modle: {path: m}")
    done = python("-m", "mindrl", "train", "run.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert "modle: unknown key; did you mean model?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "run.yaml"]


def test_options_may_stand_between_overrides(tmp_path: Path):
    done = python("-m", "mindrl", "train", "run.yaml", "a=1", "--overwrite", "b=2", folder=tmp_path)
    assert (done.returncode, done.stderr.count("can't read this configuration file")) == (2, 1)


def test_a_device_that_is_not_there_is_answered_with_every_candidates_reason(tmp_path: Path):
    done = python("-m", "mindrl", "doctor", "--accelerator", "abacus", folder=tmp_path)
    assert done.returncode == 2
    assert "cpu: usable" in done.stderr
    assert "Traceback" not in done.stderr


class Ending(types.ModuleType):
    """A command that ends in a given way."""

    SUMMARY = "ends"
    EXAMPLE = "mindrl ends"
    result: int | BaseException = 0

    def add_arguments(self, parser: object) -> None:
        """None."""

    def run(self, args: object) -> int:
        """End."""
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Ending:
    command = Ending("ending")
    monkeypatch.setitem(sys.modules, "ending", command)
    monkeypatch.setitem(cli.COMMANDS, "ends", "ending")
    return command


@pytest.mark.parametrize(
    ("result", "code"), [(0, 0), (1, 1), (RequestError("no such file"), 2), (KeyboardInterrupt(), 130)]
)
def test_how_a_command_ended_is_its_exit_code(ending: Ending, result: int | BaseException, code: int):
    ending.result = result
    assert cli.main(["ends"]) == code


def test_a_failure_keeps_its_traceback(ending: Ending):
    ending.result = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"):
        cli.main(["ends"])


def test_doctor_speaks_json(tmp_path: Path):
    done = python("-m", "mindrl", "doctor", "--json", folder=tmp_path)
    report = json.loads(done.stdout)
    assert set(report["kernels"]) >= {"attention", "rms_norm", "rotary", "swiglu", "token_log_probs"}
    missing = [finding for finding in report["findings"] if finding["state"] == "missing"]
    assert done.returncode == int(bool(missing))
    assert all(finding["remedy"] for finding in missing)


def test_a_reader_that_goes_away_ends_the_command_in_one_line(tmp_path: Path):
    program = "from mindrl.cli.main import main; import sys; sys.exit(main(['doctor']))"
    show = "import mindrl.cli.doctor as d; d.run = lambda args: print('x' * 1_000_000) or 0; "
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", show + program],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "mindrl doctor: whoever read the output has gone\n")


def test_a_full_disk_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "out.parquet")

    monkeypatch.setattr("mindrl.cli.doctor.run", run)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().err == "mindrl doctor: out.parquet: No space left on device\n"
