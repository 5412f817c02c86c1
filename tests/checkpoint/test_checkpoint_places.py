"""Where checkpoints lie: complete or not there, found, counted, and deleted only when they are the run's own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindrl.checkpoint import directories
from mindrl.checkpoint.training import save_checkpoint
from mindrl.errors import RequestError
from tests.checkpoint.test_checkpoint_contents import PARTS, make_backend, take_step
from tests.distributed import run_distributed
from tests.models.tiny_models import save_tiny_model


def checkpoint(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / ".metadata").write_bytes(b"x")
    return path


def test_the_tracker_says_which_checkpoint_a_run_continues_from(tmp_path: Path):
    for name in ("iter_0000005", "iter_0000010"):
        checkpoint(tmp_path / name)
    directories.write_tracker(tmp_path, "5")
    assert directories.latest_iteration(tmp_path) == (tmp_path / "iter_0000005", 5)


def test_converted_weights_are_not_something_to_continue_from(tmp_path: Path):
    checkpoint(tmp_path / "release")
    directories.write_tracker(tmp_path, "release")
    with pytest.raises(RequestError, match="converted weights"):
        directories.latest_iteration(tmp_path)


def test_only_a_checkpoint_that_is_one_is_deleted(tmp_path: Path):
    ours = checkpoint(tmp_path / "iter_0000005")
    elsewhere = checkpoint(tmp_path / "backup")
    (tmp_path / "iter_0000006").symlink_to(elsewhere)
    (tmp_path / "iter_0000007").mkdir()
    (tmp_path / "iter_0000007" / "notes.txt").write_text("mine")
    for step in range(5, 9):  # 8 does not exist
        directories.remove_checkpoint(tmp_path / directories.iteration_name(step))
    assert not ours.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"backup", "iter_0000006", "iter_0000007"}
    assert (elsewhere / ".metadata").exists()


def test_what_killed_saves_have_left_is_cleared_and_nothing_else(tmp_path: Path):
    kept = ["iter_0000005", "release", ".iter_notes", "iter_0000006.partial", "hf"]
    for name in (*kept, ".iter_0000010.partial", ".iter_0000005.removed", ".iter_0000005.replaced"):
        checkpoint(tmp_path / name)
    directories.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def save_twice(model: Path, run: Path, room: int) -> str:
    """Save after one step and, with `room` bytes left on the disk, after two; what the second said."""
    backend = make_backend(model)
    backend.load_hf(model)
    take_step(backend, 0)
    save_checkpoint(run, 1, backend.state(PARTS), model)
    if os.environ["RANK"] == "0":
        with (run / "ballast").open("wb") as ballast:
            ballast.write(bytes(shutil.disk_usage(run).free - room))
    take_step(backend, 1)
    with pytest.raises(OSError, match="No space left on device") as refusal:
        save_checkpoint(run, 2, backend.state(PARTS), model)
    return str(refusal.value)


@pytest.mark.parametrize("room", [100_000, 4096], ids=["tensors", "first file"])
def test_a_full_disk_says_so_and_leaves_the_earlier_checkpoint_as_it_was(
    small_disk: Path, tmp_path: Path, room: int
):
    model = save_tiny_model(tmp_path / "model", "qwen2-tied")
    messages = run_distributed(save_twice, 1, model, small_disk, room)
    assert all("the earlier ones are as they were" in message for message in messages)
    assert directories.latest_iteration(small_disk) == (small_disk / "iter_0000001", 1)
    names = {path.name for path in small_disk.iterdir()}
    assert names == {"ballast", "hf", "iter_0000001", directories.TRACKER_NAME}
