"""A conversion that ends early leaves nothing that looks like a result, and goes on where it was when asked again."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import tensors_of, write_model
from safetensors.torch import save_file

from mindrl.checkpoint.byte_plan import OutputFile
from mindrl.checkpoint.conversion import copying, hf_to_mcore, workers
from mindrl.checkpoint.conversion.convert import Conversion, convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.conversion.engine import Work
from mindrl.checkpoint.conversion.manifest import MANIFEST_NAME
from mindrl.checkpoint.conversion.partial import PartialResult
from mindrl.errors import RequestError

FILE_BYTES = 20_000
STUCK_AT_THE_THIRD_FILE = f"""
import sys, time
from pathlib import Path
from mindrl.checkpoint.conversion import hf_to_mcore, workers
from mindrl.checkpoint.conversion.convert import convert_hf_to_mcore
from mindrl.checkpoint.conversion.engine import Work

def write_group(target, group, sources, really=workers.write_group):
    if Path(f"/proc/self/fd/{{target.descriptor}}").resolve().name == "__0_2.distcp":
        time.sleep(600)
    return really(target, group, sources)

workers.write_group = write_group
hf_to_mcore.LARGEST_FILE_BYTES = {FILE_BYTES}
convert_hf_to_mcore(Path(sys.argv[1]), Path(sys.argv[2]), progress=False, work=Work(workers=1))
"""


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_to_mcore, "LARGEST_FILE_BYTES", FILE_BYTES)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "hf", "qwen3", tied=False)


def to_mcore(source: Path, target: Path, **options: Any) -> Conversion:
    return convert_hf_to_mcore(source, target, progress=False, work=Work(workers=2), **options)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory; the manifest without its source's path, which is where it was read."""
    found = {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    for name in found:
        if name.endswith(MANIFEST_NAME):
            found[name] = json.dumps({**json.loads(found[name]), "source": ""}).encode()
    return found


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def start_and_kill(model: Path, target: Path) -> Path:
    """Kill a real process outright when two files are complete and the third is begun; the partial directory."""
    partial = target.parent / f".{target.name}.partial"
    process = subprocess.Popen([sys.executable, "-c", STUCK_AT_THE_THIRD_FILE, str(model), str(target)])
    try:
        deadline = time.monotonic() + 120
        while not (partial / "result/release/__0_2.distcp").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return partial


def interrupt(model: Path, target: Path, num_complete: int) -> None:
    """Press Ctrl-C when so many files are complete."""
    note_done, noted = PartialResult.note_done, []

    def or_interrupt(self: PartialResult, file: OutputFile, content: dict[str, object]) -> None:
        if len(noted) == num_complete:
            raise KeyboardInterrupt
        noted.append(file.name)
        note_done(self, file, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialResult, "note_done", or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            to_mcore(model, target)


def test_after_a_kill_nothing_looks_like_a_result_and_a_rerun_goes_on(model: Path, tmp_path: Path):
    whole, target = tmp_path / "whole", tmp_path / "mcore"
    to_mcore(model, whole)
    partial = start_and_kill(model, target)

    assert not target.exists()
    left = {path.name for path in partial.rglob("*")}
    assert not left & {".metadata", "config.json", MANIFEST_NAME, "latest_checkpointed_iteration.txt"}
    complete = partial / "result/release/__0_1.distcp"
    before = complete.stat().st_ino, complete.stat().st_mtime_ns

    result = to_mcore(model, target)
    assert "2 of " in result.notes[-1]
    assert "complete from an earlier run" in result.notes[-1]
    assert not partial.exists()
    assert contents(target) == contents(whole)
    after = (target / "release/__0_1.distcp").stat()
    assert (after.st_ino, after.st_mtime_ns) == before, "a complete file was written again"
    assert result.outcome.bytes_moved < to_mcore(model, tmp_path / "again").outcome.bytes_moved


@pytest.mark.parametrize(
    ("change", "told"),
    [("option", "other options"), ("source", "source files of other"), ("version", "version")],
)
def test_what_another_conversion_has_left_is_not_gone_on_with(
    model: Path, tmp_path: Path, change: str, told: str, monkeypatch: pytest.MonkeyPatch
):
    interrupt(model, tmp_path / "mcore", 2)
    dtype = "bfloat16" if change == "option" else "float32"
    if change == "source":
        tensors = tensors_of(model)
        tensors["model.norm.weight"] += 1
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    if change == "version":
        monkeypatch.setattr("mindrl.__version__", "0.0.1")
    result = (
        to_mcore(model, tmp_path / "mcore", dtype=dtype)
        if change == "option"
        else to_mcore(model, tmp_path / "mcore")
    )
    assert "begun anew" in result.notes[-1]
    assert told in result.notes[-1]
    assert names(tmp_path) == {"hf", "mcore"}
    convert_mcore_to_hf(tmp_path / "mcore", tmp_path / "back", progress=False)
    wanted = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors_of(model).items()}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors_of(tmp_path / "back").items())


@pytest.mark.parametrize("num_complete", [0, 2])
def test_ctrl_c_keeps_what_is_complete_and_nothing_if_nothing_is(
    model: Path, tmp_path: Path, num_complete: int
):
    interrupt(model, tmp_path / "mcore", num_complete)
    assert names(tmp_path) == ({"hf", ".mcore.partial"} if num_complete else {"hf"})
    result = to_mcore(model, tmp_path / "mcore")
    assert any(f"{num_complete} of " in note for note in result.notes) == (num_complete > 0)


def test_a_disk_that_fills_up_in_the_middle_is_named_with_what_to_do(model: Path, tmp_path: Path):
    written = 0

    def pwrite(descriptor: int, data: memoryview, offset: int, really=os.pwrite) -> int:
        nonlocal written
        written += len(data)
        if written > 3 * FILE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(descriptor, data, offset)

    told = r"mcore: No space left.*Make room for .* GB.*run the same command again"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(RequestError, match=told):
            convert_hf_to_mcore(model, tmp_path / "mcore", progress=False, work=Work(workers=1))
    assert names(tmp_path) == {"hf", ".mcore.partial"}
    assert "complete from an earlier run" in to_mcore(model, tmp_path / "mcore").notes[-1]


def test_a_source_that_can_not_be_converted_leaves_nothing_to_go_on_with(model: Path, tmp_path: Path):
    tensors = tensors_of(model)
    tensors["lm_head.weight"][3, 4] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"lm_head.weight in .*model.safetensors holds nan"):
        to_mcore(model, tmp_path / "mcore", dtype="bfloat16")
    assert names(tmp_path) == {"hf"}
    again = convert_hf_to_mcore(model, tmp_path / "mcore", progress=False, work=Work(allow_nan=True))
    assert again.outcome.complete


def test_a_second_process_with_the_same_target_is_refused(model: Path, tmp_path: Path):
    first = PartialResult(tmp_path / "mcore", {}, alone=True)
    with pytest.raises(RequestError, match=r"Another `mindrl convert` is making .*mcore"):
        to_mcore(model, tmp_path / "mcore")
    first.discard()
    first.close()
    assert to_mcore(model, tmp_path / "mcore").outcome.complete


def test_a_directory_in_the_way_that_is_of_nobody_is_kept(model: Path, tmp_path: Path):
    stranger = tmp_path / ".mcore.partial"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("my life's work")
    with pytest.raises(RequestError, match="is in the way and not of a conversion"):
        to_mcore(model, tmp_path / "mcore")
    assert names(stranger) == {"thesis.txt"}


def test_a_kill_between_the_two_renames_of_overwrite_loses_nothing(model: Path, tmp_path: Path):
    target = tmp_path / "mcore"
    to_mcore(model, target)
    before = contents(target)
    target.rename(tmp_path / ".mcore.replaced")
    with pytest.raises(RequestError, match="exists"):
        to_mcore(model, target)
    assert contents(target) == before
    assert to_mcore(model, target, overwrite=True).outcome.complete
    assert names(tmp_path) == {"hf", "mcore"}


@pytest.mark.parametrize("num_workers", [1, 2, 7])
def test_the_number_of_workers_and_the_size_of_pieces_change_no_byte(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
):
    to_mcore(model, tmp_path / "mcore")
    monkeypatch.setattr(copying, "PIECE_BYTES", 700)
    monkeypatch.setattr(workers, "PIECE_BYTES", 700)
    convert_hf_to_mcore(model, tmp_path / "other", progress=False, work=Work(workers=num_workers))
    assert contents(tmp_path / "other") == contents(tmp_path / "mcore")


def test_checksums_of_all_that_was_written_lie_beside_it(model: Path, tmp_path: Path):
    to_mcore(model, tmp_path / "mcore")
    convert_mcore_to_hf(tmp_path / "mcore", tmp_path / "back", progress=False, max_file_bytes=FILE_BYTES)
    for directory, small in (("mcore/release", ".metadata"), ("back", "model.safetensors.index.json")):
        manifest = json.loads((tmp_path / directory / MANIFEST_NAME).read_text())
        assert small in manifest["small_files"]
        for name, (size, crc) in manifest["small_files"].items():
            data = (tmp_path / directory / name).read_bytes()
            assert (len(data), zlib.crc32(data)) == (size, crc)
        for name, noted in manifest["files"].items():
            data = (tmp_path / directory / name).read_bytes()
            assert len(data) == noted["size"]
            for start, length, crc in (*noted["literals"], *noted["records"].values()):
                assert zlib.crc32(data[start : start + length]) == crc
        assert set(manifest["files"]) == {path.name for path in (tmp_path / directory).glob("*_*.distcp")} | {
            path.name for path in (tmp_path / directory).glob("*.safetensors")
        }
