"""Many processes write one result between them: the same bytes as one would, joined when the last file is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hf_models import assert_same_bits, write_model
from test_interrupted_conversion import contents, names

from mindrl.checkpoint.byte_plan import OutputFile
from mindrl.checkpoint.conversion import hf_to_mcore
from mindrl.checkpoint.conversion.convert import Conversion, convert_hf_to_mcore, convert_mcore_to_hf
from mindrl.checkpoint.conversion.engine import Work
from mindrl.checkpoint.conversion.estimate import shards_of
from mindrl.cli.main import main
from mindrl.errors import RequestError

FILE_BYTES = 20_000
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_to_mcore, "LARGEST_FILE_BYTES", FILE_BYTES)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "hf", "qwen3", tied=False)


def to_mcore(
    source: Path, target: Path, num_shards: int = 1, index: int | None = 0, **options: str
) -> Conversion:
    work = Work(num_shards=num_shards, shard_index=index)
    return convert_hf_to_mcore(source, target, progress=False, work=work, **options)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_write_what_one_process_writes_and_the_last_joins(
    model: Path, tmp_path: Path, order: tuple[int, ...]
):
    to_mcore(model, tmp_path / "whole")
    *first, last = order
    for index in first:
        result = to_mcore(model, tmp_path / "mcore", 3, index)
        assert not result.outcome.complete
        assert "files are still to be written by --shard-index" in result.notes[-1]
        assert not (tmp_path / "mcore").exists()
    assert to_mcore(model, tmp_path / "mcore", 3, last).outcome.complete
    assert contents(tmp_path / "mcore") == contents(tmp_path / "whole")
    assert names(tmp_path) == {"hf", "whole", "mcore"}


def test_shards_as_processes_at_once_go_there_and_back(model: Path, tmp_path: Path):
    """Whoever looks last joins; where both looked too early, --join does."""
    to_mcore(model, tmp_path / "mcore")
    flags = ["--load-model-type", "mg", "--save-model-type", "hf", "--load-dir", str(tmp_path / "mcore")]
    command = [
        "convert",
        *flags,
        "--save-dir",
        str(tmp_path / "back"),
        "--max-shard-size",
        "20KB",
        "--num-shards",
        "2",
    ]
    code = "import sys\nfrom mindrl.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *command, "--shard-index", str(index), "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert any(json.loads(output)["complete"] for output in outputs)
    assert_same_bits(tmp_path / "back", model)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 2
    assert main([*command, "--join"]) == 0
    assert names(tmp_path) == {"hf", "mcore", "back"}


def test_a_join_names_the_shard_that_is_missing(model: Path, tmp_path: Path):
    to_mcore(model, tmp_path / "mcore", 3, 0)
    to_mcore(model, tmp_path / "mcore", 3, 2)
    with pytest.raises(
        RequestError, match=r"files are still to be written by --shard-index 1 of --num-shards 3"
    ):
        to_mcore(model, tmp_path / "mcore", 3, None)
    with pytest.raises(RequestError, match="files are still to be written"):
        to_mcore(model, tmp_path / "mcore", 1, None)
    assert not (tmp_path / "mcore").exists()
    assert to_mcore(model, tmp_path / "mcore", 3, 1).outcome.complete
    assert "is complete already" in to_mcore(model, tmp_path / "mcore", 3, None).notes[-1]


def test_a_file_that_is_gone_or_cut_off_after_its_note_is_written_again(model: Path, tmp_path: Path):
    to_mcore(model, tmp_path / "whole")
    to_mcore(model, tmp_path / "mcore", 2, 0)
    written = sorted((tmp_path / ".mcore.partial/result/release").iterdir())
    written[0].unlink()
    written[1].write_bytes(written[1].read_bytes()[:-1])
    assert not to_mcore(model, tmp_path / "mcore", 2, 1).outcome.complete
    with pytest.raises(RequestError, match=r"2 of .* files are still to be written by --shard-index 0"):
        to_mcore(model, tmp_path / "mcore", 2, None)
    assert to_mcore(model, tmp_path / "mcore", 2, 0).outcome.complete
    assert contents(tmp_path / "mcore") == contents(tmp_path / "whole")


def test_one_process_may_end_what_several_have_begun(model: Path, tmp_path: Path):
    to_mcore(model, tmp_path / "mcore", 4, 2)
    result = to_mcore(model, tmp_path / "mcore")
    assert result.outcome.complete
    assert "complete from an earlier run" in result.notes[-1]


def test_a_shard_with_other_flags_is_refused_and_touches_nothing(model: Path, tmp_path: Path):
    to_mcore(model, tmp_path / "mcore", 2, 0)
    before = contents(tmp_path / ".mcore.partial")
    with pytest.raises(RequestError, match=r"files of another conversion \(other options"):
        to_mcore(model, tmp_path / "mcore", 2, 1, dtype="bfloat16")
    assert contents(tmp_path / ".mcore.partial") == before


@pytest.mark.parametrize("direction", ["to_mcore", "to_hf"])
def test_a_host_that_comes_when_all_is_done_finds_it_complete(model: Path, tmp_path: Path, direction: str):
    """As the one does that has no file to write, there being fewer files than hosts."""
    to_mcore(model, tmp_path / "mcore")
    assert "is complete already" in to_mcore(model, tmp_path / "mcore", 8, 7).notes[-1]
    with pytest.raises(RequestError, match="exists"):
        to_mcore(model, tmp_path / "mcore", 8, 7, dtype="bfloat16")
    if direction == "to_hf":
        work = Work(num_shards=2, shard_index=1)
        for _ in range(2):
            result = convert_mcore_to_hf(tmp_path / "mcore", tmp_path / "back", progress=False, work=work)
            work = Work(num_shards=2, shard_index=0)
        assert result.output == tmp_path / "back"
        assert not (tmp_path / "back/mg2hg").exists()


@pytest.mark.parametrize("num_shards", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("sizes", [[10] * 12, [100, 1, 1, 1, 1, 1], [1], [3, 1, 4, 1, 5, 9, 2, 6]])
def test_every_file_is_in_one_share_and_shares_differ_by_no_more_than_a_file(
    num_shards: int, sizes: list[int]
):
    files = [OutputFile(str(number), size, ()) for number, size in enumerate(sizes)]
    shares = shards_of(files, num_shards)
    assert sorted((file.name for share in shares for file in share), key=int) == [file.name for file in files]
    for share in shares:
        assert sum(file.size for file in share) <= sum(sizes) / num_shards + max(sizes)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--num-shards", "2"], "--shard-index, from 0"),
        (["--num-shards", "2", "--shard-index", "2"], "the last is 1"),
        (["--shard-index", "1"], "the last is 0"),
        (["--num-shards", "2", "--shard-index", "1", "--join"], "leave --shard-index out"),
        (["--join", "--dry-run"], "give one of the two"),
        (["--workers", "100000000"], "more than 256"),
        (["--num-shards", "100000000", "--dry-run"], "more than 10000"),
    ],
)
def test_a_division_that_can_not_be_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
):
    types = ["--load-model-type", "hf", "--save-model-type", "mg"]
    assert (
        main(["convert", *types, "--load-dir", str(model), "--save-dir", str(tmp_path / "new"), *flags]) == 2
    )
    assert told in capsys.readouterr().err
    assert names(tmp_path) == {"hf"}
