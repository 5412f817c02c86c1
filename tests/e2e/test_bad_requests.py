"""Every bad request is answered in one way: exit code 2, no traceback, nothing written, and what is wrong is named.

The table is `bad_requests.REQUESTS`; `python tests/e2e/bad_requests.py` shows it with the answers.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bad_requests
import psutil
import pytest
import request_files
from bad_requests import HEAVY, REQUESTS, ROOT, BadRequest, answer, copy_of

BIN = Path(sys.executable).parent
ON_PAPER = [name for name, request in REQUESTS.items() if request.on_paper]
ENVIRONMENT = {
    **os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a good request needs."""
    place, before = tmp_path_factory.mktemp("requests"), Path.cwd()
    os.chdir(place)
    try:
        request_files.write_files(place)
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def place(files: Path) -> Iterator[Path]:
    """A copy of the files to work in."""
    with copy_of(files) as copy:
        yield copy


def listing(place: Path) -> dict[str, tuple[int, int]]:
    """Every file and directory: its size and when it was last changed."""
    return {
        str(path.relative_to(place)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in place.rglob("*")
    }


def test_the_files_themselves_are_a_good_request(place: Path):
    before = listing(place)
    assert answer(BadRequest("none", ("train", "run.yaml", "--check"), ())).code == 0
    assert listing(place) == before


@pytest.mark.parametrize("name", REQUESTS)
def test_a_bad_request_is_refused_in_words_and_leaves_nothing(place: Path, name: str):
    request = REQUESTS[name]
    request.prepare()
    before = listing(place)
    given = answer(request)
    assert given.code == 2, given.error
    assert [words for words in request.said if words not in given.error] == [], given.error
    assert "Traceback" not in given.error
    assert listing(place) == before


def test_what_is_wrong_with_the_yaml_is_told_before_torch_or_ray_is_imported(files: Path):
    program = f"""
import contextlib, io, json, os, sys
sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]!r}
from pathlib import Path
from bad_requests import REQUESTS, answer, copy_of
codes = {{}}
for name in {ON_PAPER!r}:
    with copy_of(Path({str(files)!r})):
        REQUESTS[name].prepare()
        codes[name] = answer(REQUESTS[name]).code
        assert not (heavy := set({HEAVY!r}) & set(sys.modules)), (name, heavy)
print(json.dumps(codes))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(ON_PAPER, 2)


@pytest.mark.parametrize(
    "name",
    ["a yaml syntax error", "a missing shard of the model", "convert: over its source", "no configuration"],
)
def test_the_command_line_answers_as_the_function_does(place: Path, name: str):
    request = REQUESTS[name]
    request.prepare()
    before = listing(place)
    done = run(*("mindrl", *request.argv), place=place)
    assert done.returncode == 2, done.stderr
    assert [words for words in request.said if words not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert listing(place) == before


def run(*command: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=place, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=150, check=False
    )  # fmt: skip


@pytest.mark.parametrize(
    ("locked", "arguments"),
    [
        ("run.yaml", ["train", "run.yaml", "--check"]),
        ("rows.jsonl", ["preprocess", "data.yaml"]),
        ("model/model.safetensors", [*request_files.CONVERT, "--load-dir", "model", "--save-dir", "new"]),
    ],
)
def test_a_file_without_permission_is_named(place: Path, locked: str, arguments: list[str]):
    (place / locked).chmod(0)
    before = listing(place)
    done = run(*without_privileges(), "mindrl", *arguments, place=place)
    assert done.returncode == 2, done.stderr
    assert Path(locked).name in done.stderr
    assert "Permission denied" in done.stderr
    assert listing(place) == before


def without_privileges() -> list[str]:
    """What makes permissions bind the superuser too."""
    if os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("permissions do not bind the superuser, and there is no setpriv to change that")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.fixture
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of 160 KiB."""
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def full_disk(small_disk: Path) -> Path:
    """A disk, all of it in use."""
    (small_disk / "other").write_bytes(bytes(160 * 1024))
    return small_disk


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "run.yaml", "trainer.output_dir=disk/run"],
        ["preprocess", "data.yaml", "output_prefix=disk/prompts"],
        [*request_files.CONVERT, "--load-dir", "model", "--save-dir", "disk/mcore"],
        [*bad_requests.EVAL.split(), "--output", "disk/figures.json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_full_disk_is_found_before_the_work(full_disk: Path, arguments: list[str]):
    given = answer(BadRequest("a full disk", tuple(arguments), ()))
    assert given.code == 2, given.error
    assert "disk can't be written to: No space left on device" in given.error
    assert [path.name for path in full_disk.iterdir()] == ["other"]


def test_a_disk_too_small_for_the_weights_is_found_before_they_are_copied(small_disk: Path):
    arguments = (*request_files.CONVERT, "--load-dir", "model", "--save-dir", "disk/mcore")
    given = answer(BadRequest("a small disk", arguments, ()))
    assert given.code == 2, given.error
    assert "the disk there has 0.00016" in given.error
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_prompts_fill_is_left_empty(place: Path, small_disk: Path):
    rows = [{"question": secrets.token_hex(600), "answer": "1"} for _ in range(400)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("preprocess", "data.yaml", "seq_length=2000", "output_prefix=disk/prompts")
    given = answer(BadRequest("a small disk", arguments, ()))
    assert given.code == 2, given.error
    assert "output disk/prompts.parquet: No space left on device" in given.error
    assert list(small_disk.iterdir()) == []


def test_a_port_in_use_is_named_by_the_launch_script(place: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(
            "bash", str(ROOT / "examples/grpo/_launch.sh"), *absolute(place),
            place=place, DEFAULT_YAML=str(place / "run.yaml"), MASTER_PORT=port, NPUS_PER_NODE="2",
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert port in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "run").exists()


def absolute(place: Path) -> list[str]:
    """Overrides by which run.yaml works in any directory."""
    return [
        f"model.path={place}/model", f"data.train=[{{path: {place}/prompts.parquet}}]", f"trainer.output_dir={place}/run",
    ]  # fmt: skip


@pytest.fixture
def small_ray(tmp_path: Path) -> Iterator[str]:
    """The address of a Ray with one CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory = Path(f"/tmp/bad-requests-{os.getpid()}")  # socket paths end at 107 bytes
    command = [
        "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=1", "--node-ip-address=127.0.0.1",
        "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={directory}", "--object-store-memory=100000000",
    ]  # fmt: skip
    log = (tmp_path / "ray.log").open("w")
    ray = subprocess.Popen(
        command,
        env=ENVIRONMENT | {"RAY_AUTH_MODE": "disabled"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        processes = [psutil.Process(ray.pid), *psutil.Process(ray.pid).children(recursive=True)]
        ray.terminate()
        _, alive = psutil.wait_procs(processes, timeout=10)
        for process in alive:
            process.kill()
        log.close()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_ray_with_too_few_devices_is_told_what_is_needed(place: Path, small_ray: str):
    host, _, port = small_ray.partition(":")
    wait_until_it_listens(host, int(port))
    before = listing(place)
    done = run("mindrl", "train", "run.yaml", place=place, RAY_ADDRESS=small_ray, RAY_AUTH_MODE="disabled")
    assert done.returncode == 2, done.stderr
    assert "the run needs 2 CPU on each of 1 node(s), and this Ray has" in done.stderr
    assert "with 1 CPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(place) == before


def wait_until_it_listens(host: str, port: int) -> None:
    import time

    deadline = time.monotonic() + 90
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "Ray did not start"
            time.sleep(0.2)


def test_the_page_of_answers_has_every_request():
    rows = re.findall(r"^\| ([^|`]+) \| 2 \|", (ROOT / "docs/errors.md").read_text(), re.M)
    assert rows == list(REQUESTS), "write it anew: python tests/e2e/bad_requests.py > docs/errors.md"
