"""The table of failing conversions: what was broken, what was said, what was left, and that it works once it is mended.

`python tests/checkpoint/conversion_failures.py` goes through all of them and prints docs/conversion-failures.md.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import broken_sources as broken
from broken_sources import TO_MCORE, Change

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("hf", "fp8", "mtp", "mcore")
"""Folders of the working directory that conversions read: see `write_sources`."""

TO_HF = ("--load-model-type", "mg", "--save-model-type", "hf", "--load-dir", "mcore", "--save-dir", "new")
FROM_FP8 = ("--from-fp8", "--load-dir", "fp8", "--save-dir", "new")
FP8_TO_MCORE = (
    "--load-model-type",
    "hf",
    "--save-model-type",
    "mg",
    "--load-dir",
    "fp8",
    "--save-dir",
    "new",
)
MTP_TO_MCORE = (
    "--load-model-type",
    "hf",
    "--save-model-type",
    "mg",
    "--load-dir",
    "mtp",
    "--save-dir",
    "new",
)


@dataclass(frozen=True)
class Failure:
    """One thing that goes wrong. The working directory is a copy of the sources."""

    name: str
    argv: tuple[str, ...]
    """Of `mindrl convert`."""
    said: tuple[str, ...]
    """Words that the answer must hold."""
    break_it: Change = lambda: None
    """Before the conversion."""
    circumstance: str = ""
    """Python that the conversion's own process runs first; then it is a process of its own."""
    without_privileges: bool = False
    """Permissions bind it."""
    small_disk: str = ""
    """Size of a disk that is mounted at `disk`; mending makes it larger."""
    beside_another: bool = False
    """The same conversion is running already; it ends well."""
    code: int = 2
    """Exit code; -9: killed."""
    mend: Change = lambda: None
    """Removes the cause; sources are made whole again anyway."""
    mended: tuple[str, ...] | None = None
    """Arguments that work; None: the same ones."""


def write_sources(place: Path) -> None:
    """Fill `place`: hf (sharded, untied), fp8, mtp (a layer for multi-token prediction), and mcore, made of hf."""
    import torch
    from fp8_models import write_fp8_model
    from hf_models import write_model

    from mindrl.cli.main import main

    write_model(place / "hf", "qwen2", tied=False, max_shard_size="20KB")
    write_model(place / "bf16", "moonlight", dtype=torch.bfloat16)
    write_fp8_model(place / "bf16", place / "fp8")
    shutil.rmtree(place / "bf16")
    write_model(place / "mtp", "deepseek_v3", mtp=1)
    to_mcore = ("--load-model-type", "hf", "--save-model-type", "mg")
    assert (
        main(("convert", *to_mcore, "--load-dir", str(place / "hf"), "--save-dir", str(place / "mcore"))) == 0
    )


def _both(
    name: str,
    said_hf: str | tuple[str, ...],
    said_mcore: str | tuple[str, ...],
    save: str = "new",
    **how: Any,
) -> list[Failure]:
    """The same circumstance in both directions."""
    return [
        Failure(f"hf to mcore: {name}", (*TO_MCORE[:-1], save), _words(said_hf), **how),
        Failure(f"mcore to hf: {name}", (*TO_HF[:-1], save), _words(said_mcore), **how),
    ]


def _from_hf(name: str, said: str | tuple[str, ...], break_it: Change, *flags: str, **how: Any) -> Failure:
    return Failure(f"hf to mcore: {name}", (*TO_MCORE, *flags), _words(said), break_it, **how)


def _from_mcore(name: str, said: str | tuple[str, ...], break_it: Change, *flags: str, **how: Any) -> Failure:
    return Failure(f"mcore to hf: {name}", (*TO_HF, *flags), _words(said), break_it, **how)


def _words(said: str | tuple[str, ...]) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else said


FAILURES = {
    failure.name: failure
    for failure in (
        # Files that are not what they should be.
        _from_hf("a shard is cut off", "damaged or cut off", broken.cut_off("hf/*.safetensors")),
        _from_mcore("a file is cut off", "cut off", broken.cut_off(broken.PAYLOAD)),
        _from_hf("a shard is missing", "names files that do not exist", broken.remove("hf/*.safetensors")),
        _from_mcore("a file is missing", "__0_0.distcp", broken.remove(broken.PAYLOAD)),
        _from_hf("a shard's header is no JSON", "unreadable safetensors header", broken.overwrite("hf/*.safetensors", b"{{", 8)),
        _from_hf("a shard's header claims an exabyte", "not a safetensors file", broken.long_header),
        _from_mcore("the metadata is nonsense", "can't be read as a checkpoint's metadata", broken.overwrite("mcore/release/.metadata", b"nonsense")),
        _from_mcore("a tensor's description is damaged", "__0_0.distcp", broken.damage_description),
        _from_mcore("a flipped bit in a weight", "differs from the checksum that was saved with it", broken.flip_a_weight),
        _from_hf("a shard is a pointer of Git LFS", "git lfs pull", broken.overwrite("hf/*.safetensors", broken.LFS)),
        _from_hf("a shard is a directory", "is not a file", broken.replace_by("hf/*.safetensors", Path.mkdir)),
        _from_hf("a shard is a pipe", "is not a file", broken.replace_by("hf/*.safetensors", os.mkfifo)),
        _from_mcore("a file is a pipe", "is not a file", broken.replace_by(broken.PAYLOAD, os.mkfifo)),
        _from_hf("the index is no JSON", "not valid JSON", broken.overwrite("hf/*.index.json", b"{")),
        _from_hf("the index names a file of another directory", "names '../mtp/model.safetensors'", broken.set_place(broken.NORM, "../mtp/model.safetensors")),
        _from_hf("an index beside a file that it does not know", "one of the two is left over", lambda: shutil.copy("mtp/model.safetensors", "hf")),
        _from_hf("a tensor's name would write on the terminal", "x1b[31mred' is no name of a tensor", broken.tensors(lambda named: named.update({"\x1b[31mred": named.pop(broken.NORM)}))),
        _from_hf("bytes after the last tensor", "its last tensor ends at byte", broken.longer("hf/*.safetensors")),
        _from_hf("a tensor is in two shards", "is in both", broken.twice),
        _from_mcore("the tracker names an iteration that is not there", "iter_0000010", broken.overwrite("mcore/latest_checkpointed_iteration.txt", b"10")),
        _from_hf("nothing but pytorch_model.bin", "save_pretrained", broken.only_pickled),
        # Models that are not what config.json says.
        _from_hf("config.json of another family", "missing model.layers.0.self_attn.q_norm.weight", broken.set_json("hf/config.json", model_type="qwen3", head_dim=16)),
        _from_mcore("config.json of another family", "q_layernorm", broken.set_json("mcore/hf/config.json", model_type="qwen3", head_dim=16)),
        _from_hf("config.json of a family without a map", "gpt9", broken.set_json("hf/config.json", model_type="gpt9")),
        _from_mcore("config.json is missing", "--hf-dir", broken.remove("mcore/hf/config.json")),
        _from_hf("shapes contradict config.json", "config.json makes it (64, 32)", broken.set_json("hf/config.json", intermediate_size=64)),
        _from_mcore("shapes contradict config.json", "config.json wants", broken.set_json("mcore/hf/config.json", intermediate_size=64)),
        _from_hf("a layer more than config.json says", "unknown model.layers.1", broken.set_json("hf/config.json", num_hidden_layers=1)),
        _from_mcore("a layer more than config.json says", "config.json", broken.set_json("mcore/hf/config.json", num_hidden_layers=1)),
        _from_hf("no layers", "num_hidden_layers is 0", broken.set_json("hf/config.json", num_hidden_layers=0)),
        Failure("hf to mcore: a billion experts", (*MTP_TO_MCORE, "--mtp", "drop"), ("n_routed_experts is 1000000000; no model has more",), broken.set_json("mtp/config.json", n_routed_experts=10**9)),
        _from_hf("an unknown tensor", "unknown score.weight", broken.tensors(lambda named: named.update({"score.weight": named[broken.NORM] + 0}))),
        _from_mcore("tensors that config.json does not know", "linear_qkv.bias", broken.set_json("mcore/hf/config.json", model_type="llama")),
        _from_hf("a missing tensor", f"missing {broken.LAST}", broken.tensors(lambda named: named.pop(broken.LAST))),
        _from_mcore("a missing tensor", "no tensor output_layer.weight", broken.checkpoint_without_output_layer),
        _from_hf("a tied output layer that is not the embedding", "ties the embeddings, but lm_head.weight differs", broken.tensors(broken.tied_with_another_output_layer)),
        # Numbers that no conversion of types can keep.
        _from_hf("NaN", f"{broken.NORM} in hf/model.safetensors holds nan", broken.tensors(broken.put(broken.NORM, float("nan")))),
        _from_mcore("NaN", "holds nan", broken.checkpoint_of(broken.put(broken.NORM, float("nan")))),
        _from_hf("NaN where the type changes", f"{broken.NORM} in hf/model.safetensors holds nan", broken.tensors(broken.put(broken.NORM, float("nan"))), "--params-dtype", "bf16"),
        _from_mcore("NaN where the type changes", "holds nan", broken.checkpoint_of(broken.put(broken.NORM, float("nan"))), "--params-dtype", "bf16"),
        _from_hf("a value out of range for fp16", "holds 100000, which is out of range for float16", broken.tensors(broken.put(broken.NORM, 1e5)), "--params-dtype", "fp16"),
        _from_mcore("a value out of range for fp16", "holds 100000, which is out of range for float16", broken.checkpoint_of(broken.put(broken.NORM, 1e5)), "--params-dtype", "fp16"),
        _from_hf("two types in one Megatron tensor", "--params-dtype", broken.tensors(broken.in_another_type("bfloat16"))),
        # FP8.
        *(
            Failure(f"{name}: {what}", argv, _words(said), break_it)
            for name, argv in (("fp8 to hf", FROM_FP8), ("fp8 to mcore", FP8_TO_MCORE))
            for what, said, break_it in (
                ("a weight without scales", "and no file has its scales", broken.tensors(broken.without_scales, "fp8")),
                ("scales of another shape", "its scales in", broken.tensors(broken.with_longer_scales, "fp8")),
                ("NaN among the codes", "holds NaN at row 0, column 2", broken.tensors(broken.with_nan_code, "fp8")),
                ("a scale that is no number", "holds nan", broken.tensors(broken.with_nan_scale, "fp8")),
                ("another quantization", "quantization_config", broken.set_json("fp8/config.json", quantization_config={"quant_method": "gptq", "bits": 4})),
            )
        ),
        # Requests.
        Failure("hf to mcore: --mtp not given", MTP_TO_MCORE, ("--mtp",), mended=(*MTP_TO_MCORE, "--mtp", "drop")),
        Failure("hf to mcore: onto the source", (*TO_MCORE[:-1], "hf"), ("the source is never replaced",), mended=TO_MCORE),
        Failure("hf to mcore: onto the source by a link", (*TO_MCORE[:-1], "link"), ("the source is never replaced",), lambda: Path("link").symlink_to("hf"), mended=TO_MCORE),
        Failure("mcore to hf: onto the source", (*TO_HF[:-1], "mcore"), ("the source is never replaced",), mended=TO_HF),
        *_both("something is there already", "--overwrite", "--overwrite", break_it=lambda: broken.occupy("new"), mend=lambda: broken.free("new")),
        # What happens while it runs.
        *_both("the place can't be written to", "Permission denied", "Permission denied", save="locked/new", break_it=broken.lock, mend=broken.unlock, without_privileges=True),
        *_both("the disk is too small", "GB free", "GB free", save="disk/new", small_disk="160k", mend=broken.enlarge_disk),
        *_both("the disk fills up meanwhile", "No space left on device", "No space left on device", save="disk/new", small_disk="1536k", circumstance=broken.DISK_FILLS, mend=lambda: Path("disk/neighbour").unlink()),
        *_both("files may not be larger than 70 kB", "File too large", "File too large", circumstance=broken.NO_LARGE_FILES),
        *_both("killed at its first write", (), (), circumstance=broken.KILL_AT_WRITE.format(number=1), code=-9),
        *_both("killed at its 20th write", (), (), circumstance=broken.KILL_AT_WRITE.format(number=20), code=-9),
        *_both("killed when everything is written but the files beside the weights", (), (), circumstance=broken.KILL_AT_OPEN.format(name="config.json"), code=-9),
        *_both("killed just before the result appears", (), (), circumstance=broken.KILL_AT_RENAME, code=-9),
        _from_hf("the source changes meanwhile", "changed while it was read (model-00002-of-00007.safetensors)", lambda: None, circumstance=broken.SOURCE_CHANGES.format(name=".distcp", source="hf/model-00002-of-00007.safetensors")),
        _from_mcore("the source changes meanwhile", "changed while it was read (__0_0.distcp)", lambda: None, circumstance=broken.SOURCE_CHANGES.format(name=".safetensors", source=broken.PAYLOAD)),
        *_both("a file lies where its partial result would", "in the way and no directory", "in the way and no directory", break_it=lambda: Path(".new.partial").touch(), mend=lambda: Path(".new.partial").unlink()),
        *_both("a directory of somebody's lies there", "is in the way and not of a conversion", "is in the way and not of a conversion", break_it=lambda: broken.occupy(".new.partial"), mend=lambda: broken.free(".new.partial")),
        *_both("another process is making the same result", "Another `mindrl convert` is making", "Another `mindrl convert` is making", beside_another=True),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Course:
    """How a failure went, and what came after."""

    code: int
    said: str
    left: tuple[str, ...]
    """Paths that were not there before; of a directory that is new, the directory alone."""
    looks_valid: tuple[str, ...]
    """Files at the target by which loaders know weights."""
    code_after: int
    said_after: str
    is_right: bool
    """What the second attempt made holds the weights of its source, bit for bit."""


MARKERS = (
    "config.json",
    "latest_checkpointed_iteration.txt",
    ".metadata",
    "model.safetensors.index.json",
    "release",
)


def go_through(failure: Failure, files: Path) -> Course:
    """Break, convert, look, mend, convert again, compare; in a copy of `files`."""
    with copy_of(files) as place, _disk(failure, place):
        failure.break_it()
        before = _listing(place)
        with _another(failure) as another:
            code, said = _convert(failure)
            left = _listing(place) - before
            target = place / failure.argv[failure.argv.index("--save-dir") + 1]
            markers = (
                path for name in MARKERS for path in [*target.glob(name), *target.glob(f"release/{name}")]
            )
            looks_valid = tuple(str(path) for path in markers if str(path.relative_to(place)) in left)
            ended = another() if another else None
        for name in SOURCES:
            shutil.rmtree(place / name)
            shutil.copytree(files / name, place / name)
        failure.mend()
        mended = failure.mended or failure.argv
        code_after, said_after = ended or _run_here(("convert", *mended))
        return Course(
            code,
            said,
            tuple(sorted(_topmost(left))),
            looks_valid,
            code_after,
            said_after,
            code_after == 0 and _is_right(mended, place),
        )


@contextlib.contextmanager
def copy_of(files: Path) -> Iterator[Path]:
    """Work in a copy of the files, which goes at the end."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory).resolve() / "place"
        shutil.copytree(files, place)
        os.chdir(place)
        try:
            yield place
        finally:
            os.chdir(before)


def can_mount() -> bool:
    """Whether a small disk can be had here."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        if mounted:
            subprocess.run(["umount", directory], check=True)
    return mounted


def can_lose_privileges() -> bool:
    """Whether permissions can be made to bind."""
    return os.geteuid() != 0 or shutil.which("setpriv") is not None


@contextlib.contextmanager
def _disk(failure: Failure, place: Path) -> Iterator[None]:
    if not failure.small_disk:
        yield
        return
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={failure.small_disk}", "tmpfs", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", disk], check=True)


@contextlib.contextmanager
def _another(failure: Failure) -> Iterator[Any]:
    """The same conversion at work in another process; what is handed out lets it go on and tells how it ended."""
    if not failure.beside_another:
        yield None
        return
    process = subprocess.Popen(
        _command(failure.argv, broken.WAIT_AT_OPEN),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    def go_on() -> tuple[int, str]:
        _, error = process.communicate("go on\n", timeout=120)
        return process.returncode, error

    try:
        yield go_on
    finally:
        process.kill()
        process.wait()


def _convert(failure: Failure) -> tuple[int, str]:
    if not failure.circumstance and not failure.without_privileges:
        return _run_here(("convert", *failure.argv))
    command = _command(failure.argv, failure.circumstance)
    if failure.without_privileges and os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, _without_noise(done.stderr)


def _command(argv: tuple[str, ...], circumstance: str) -> list[str]:
    program = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom mindrl.cli.main import main\n"
        f"import mindrl.checkpoint.conversion.convert\n{circumstance}\nsys.exit(main({('convert', *argv)!r}))"
    )
    return [sys.executable, "-c", program]


def _run_here(argv: tuple[str, ...]) -> tuple[int, str]:
    from mindrl.cli.main import main

    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        code = main(argv)
    return code, _without_noise(error.getvalue())


def _without_noise(error: str) -> str:
    """Without progress bars, and what libraries say of themselves when they are imported."""
    lines = [line.rpartition("\r")[2] for line in error.splitlines()]
    return "\n".join(line for line in lines if line and "B/s" not in line and "warn" not in line.lower())


def _listing(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def _topmost(paths: set[str]) -> set[str]:
    return {path for path in paths if not any(str(parent) in paths for parent in Path(path).parents)}


def _is_right(argv: tuple[str, ...], place: Path) -> bool:
    from mindrl.checkpoint.comparison.compare import compare
    from mindrl.checkpoint.comparison.recorded import verify

    source, target = (place / argv[argv.index(flag) + 1] for flag in ("--load-dir", "--save-dir"))
    return compare(source, target).equal and not verify(target).damage


def page(files: Path) -> str:
    """docs/conversion-failures.md: every failure with its course."""
    rows: list[str] = []
    for failure in FAILURES.values():
        course = go_through(failure, files)
        said = (
            re.sub(r"/tmp/\S*/place/?", "", course.said.removeprefix("mindrl convert: "))
            or "(nothing: killed)"
        )
        left = ", ".join(f"`{path}`" for path in course.left) or "nothing"
        after = "as it should be" if course.is_right else f"WRONG ({course.code_after})"
        rows.append(f"| {failure.name} | {course.code} | {_cell(said)} | {left} | {after} |")
    head = "| what was broken | code | what was said | what was left | once mended, the same again |"
    return "\n".join([HEAD, head, "|---|---|---|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return f"`{' '.join(text.split()).replace('|', chr(92) + '|').replace('`', chr(39))}`"


HEAD = """\
# Failing conversions

Written by `python tests/checkpoint/conversion_failures.py > docs/conversion-failures.md`, which goes through all of them;
`tests/checkpoint/test_conversion_failures.py` holds each to its answer: one message and no traceback, nothing at the
target that looks like weights, and once the cause is gone the same command succeeds. Its result is compared with the
source bit for bit, and with its own checksums.

The sources lie in `hf`, `fp8`, `mtp` and `mcore`, the result is to be `new`. `.new.partial` is what a conversion that was
killed had written: the same command goes on with the files that were complete.
"""


def _main() -> None:
    sys.path[:0] = [str(ROOT)]
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(sys.stderr):
        write_sources(Path(directory))
        text = page(Path(directory))
    print(text, end="")


if __name__ == "__main__":
    _main()
