"""`mindrl convert` beside `cp`: speed, memory, FP8 arithmetic, and the dry run of a model of 671 billion parameters.

    python benchmarks/convert.py [CASE ...] [--size full|tiny] [--rounds 3] [--workers N] [--directory DIR] [--json]

    bf16      a model of Qwen2.5-7B's shapes (15 GB), to Megatron and back, beside `cp` of the same source files; and the
              memory that a model of a quarter of its size takes
    fp8       the arithmetic of FP8 -> bfloat16 in one thread, on an expert's matrix of DeepSeek-V3
    fused     layers of DeepSeek-V3 in FP8 (3.5 GB) to Megatron in bfloat16, beside `cp` of what comes out
    dry-run   DeepSeek-V3 as published, headers alone (its files are holes)

Makes its own data (`convert_models.py`). `cp --reflink=never` and the command run in processes of their own, in turns,
the first of a round last in the next. Each timing ends after a `sync`; outputs are deleted in between, and room is looked
for first (`bf16` asks for 31 GB). Speeds are those of medians. Memory is the high-water mark of the resident set (VmHWM),
summed over the command's processes, looked at every 20 ms. Files are in the page cache as far as they fit, for both.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convert_models import DEEPSEEK_V3, QWEN25_7B, SLICE, TINY_DEEPSEEK, TINY_QWEN, model_bytes, write_model

SAMPLE_SECONDS = 0.02
MEBIBYTE = 1 << 20
GIGABYTE = 10**9
ROOM_TO_SPARE = 10**8


class Bench:
    """Where and how to measure."""

    def __init__(self, folder: Path, *, tiny: bool, rounds: int, workers: int | None) -> None:
        self.folder, self.tiny, self.rounds = folder, tiny, rounds
        self._workers = [] if workers is None else ["--workers", str(workers)]

    def convert(self, *arguments: str | Path) -> dict[str, Any]:
        """Run the command; its outcome, with `peak_mebibytes` of memory."""
        command = [sys.executable, "-m", "mindrl", "convert", "--json", *map(str, arguments), *self._workers]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            marks: dict[int, int] = {}
            done = threading.Event()
            watcher = threading.Thread(target=_watch, args=(process.pid, marks, done))
            watcher.start()
            output, errors = process.communicate()
            done.set()
            watcher.join()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}:\n{errors}")
        return {**json.loads(output), "peak_mebibytes": sum(marks.values()) // MEBIBYTE}

    def beside_cp(
        self, files: list[Path], *arguments: str | Path, keep: Path | None = None
    ) -> dict[str, Any]:
        """Times of `convert ARGUMENTS --save-dir` and of `cp` of `files`, in turns; the last result goes to `keep`."""
        target = self.folder / "target"
        peaks: list[int] = []

        def copy() -> None:
            target.mkdir()
            subprocess.run(["cp", "--reflink=never", "--", *files, target], check=True)

        def convert() -> None:
            peaks.append(self.convert(*arguments, "--save-dir", target)["peak_mebibytes"])

        times: dict[str, list[float]] = {"cp": [], "convert": []}
        for number in range(self.rounds):
            pair = [("cp", copy), ("convert", convert)]
            for name, action in pair[:: -1 if number % 2 else 1]:
                times[name].append(_seconds(action))
                print(f"{name}: {times[name][-1]:.1f} s", file=sys.stderr, flush=True)
                if keep is not None and name == "convert" and number == self.rounds - 1:
                    target.rename(keep)
                else:
                    shutil.rmtree(target)
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        return {
            "gigabytes_of_cp": round(sum(path.stat().st_size for path in files) / GIGABYTE, 3),
            "cp_seconds": [round(seconds, 2) for seconds in times["cp"]],
            "convert_seconds": [round(seconds, 2) for seconds in times["convert"]],
            "speed_of_cp": round(medians["cp"] / medians["convert"], 3),
            "peak_mebibytes": max(peaks),
        }

    def require_room(self, num_bytes: int) -> None:
        """Refuse to begin what the disk has no room for."""
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes + ROOM_TO_SPARE:
            raise SystemExit(
                f"{self.folder} has {free / GIGABYTE:.3g} GB free, this takes {num_bytes / GIGABYTE:.3g} GB: "
                "name another place with --directory"
            )


def bf16(bench: Bench) -> dict[str, Any]:
    """Both ways of a bfloat16 model; and memory alone, of one of a quarter of its layers and vocabulary."""
    whole = json.loads(QWEN25_7B.read_text()) | (TINY_QWEN if bench.tiny else {})
    quarter = {key: whole[key] // 4 for key in ("num_hidden_layers", "vocab_size")}
    # Of an even number of rounds the last is ended by cp, while the result to keep is already there.
    bench.require_room((2 if bench.rounds % 2 else 3) * model_bytes(whole))
    hf, mcore, back = (bench.folder / name for name in ("hf", "mcore", "back"))
    to_mcore = ("--load-model-type", "hf", "--save-model-type", "mg", "--load-dir", hf)
    to_hf = ("--load-model-type", "mg", "--save-model-type", "hf", "--load-dir", mcore)
    write_model(hf, whole)
    figures = {"hf_to_mcore": bench.beside_cp(sorted(hf.glob("*.safetensors")), *to_mcore, keep=mcore)}
    shutil.rmtree(hf)
    figures["mcore_to_hf"] = bench.beside_cp(sorted(mcore.glob("release/*.distcp")), *to_hf)
    shutil.rmtree(mcore)
    write_model(hf, whole | quarter)
    peaks = [
        bench.convert(*arguments, "--save-dir", target)["peak_mebibytes"]
        for arguments, target in ((to_mcore, mcore), (to_hf, back))
    ]
    return {**figures, "peak_mebibytes_of_a_quarter": max(peaks)}


def fp8(bench: Bench) -> dict[str, Any]:
    """Bytes of FP8 a second that one thread takes to bfloat16, in pieces as the conversion reads them."""
    import numpy as np
    import torch

    from mindrl.checkpoint.byte_plan import FP8
    from mindrl.checkpoint.conversion.fp8 import blocks_of, dequantized
    from mindrl.checkpoint.formats.safetensors_files import read_model

    torch.set_num_threads(1)
    model = write_model(bench.folder / "fp8", DEEPSEEK_V3 | (TINY_DEEPSEEK if bench.tiny else _ONE_LAYER))
    weight = max(
        (
            tensor
            for tensor in read_model(model).values()
            if tensor.dtype == FP8 and "experts.0." in tensor.name
        ),
        key=lambda tensor: tensor.num_bytes,
    )
    codes = np.fromfile(weight.path, np.uint8, weight.num_bytes, offset=weight.offset).reshape(weight.shape)
    assert weight.scales is not None
    scales = np.fromfile(weight.scales.path, np.uint8, weight.scales.num_bytes, offset=weight.scales.offset)
    scales = scales.reshape(weight.scales.rows, -1)
    rows = max(1, (8 * MEBIBYTE // 2) // weight.columns)
    out = np.empty((rows, 2 * weight.columns), np.uint8)
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    for _ in range(3 if bench.tiny else 50):
        start, cpu_start = time.perf_counter(), time.thread_time()
        for first in range(0, weight.rows, rows):
            piece = codes[first : first + rows]
            block, count = blocks_of(first, len(piece))
            dequantized(piece, scales[block : block + count], weight, first, 0, out=out[: len(piece)])
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.thread_time() - cpu_start)
    shutil.rmtree(model)
    return {
        "matrix": weight.shape,
        "gigabytes_per_second_and_thread": round(weight.num_bytes / statistics.median(seconds) / GIGABYTE, 2),
        "by_the_processors_time": round(weight.num_bytes / statistics.median(cpu_seconds) / GIGABYTE, 2),
    }


_ONE_LAYER = SLICE | {"num_hidden_layers": 2, "n_routed_experts": 8}


def fused(bench: Bench) -> dict[str, Any]:
    """FP8 to Megatron in bfloat16 without a copy in between, beside `cp` of the result."""
    config = DEEPSEEK_V3 | (TINY_DEEPSEEK if bench.tiny else SLICE)
    bench.require_room(5 * model_bytes(config))
    hf, mcore = write_model(bench.folder / "hf", config), bench.folder / "mcore"
    arguments = ("--load-model-type", "hf", "--save-model-type", "mg", "--load-dir", hf)
    bench.convert(*arguments, "--save-dir", mcore)
    return bench.beside_cp(sorted(mcore.glob("release/*.distcp")), *arguments)


def dry_run(bench: Bench) -> dict[str, Any]:
    """Time and memory of planning without a byte of weights."""
    config = DEEPSEEK_V3 | (TINY_DEEPSEEK if bench.tiny else {})
    hf = write_model(bench.folder / "hf", config, headers_only=True)
    arguments = ["--load-model-type", "hf", "--save-model-type", "mg", "--load-dir", hf, "--dry-run"]
    if config["num_nextn_predict_layers"]:
        arguments += ["--mtp", "keep"]
    start = time.perf_counter()
    outcome = bench.convert(*arguments, "--save-dir", bench.folder / "mcore")
    return {"seconds": round(time.perf_counter() - start, 2), **outcome}


CASES: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "bf16": bf16,
    "fp8": fp8,
    "fused": fused,
    "dry-run": dry_run,
}


def _seconds(action: Callable[[], None]) -> float:
    os.sync()
    start = time.perf_counter()
    action()
    os.sync()
    return time.perf_counter() - start


def _watch(pid: int, marks: dict[int, int], done: threading.Event) -> None:
    """Note the resident set's high-water mark of a process and of those under it, until told to end."""
    while not done.wait(SAMPLE_SECONDS):
        for each in _family(pid):
            try:
                status = Path(f"/proc/{each}/status").read_text()
            except OSError:
                continue  # it has ended meanwhile
            mark = [line for line in status.splitlines() if line.startswith("VmHWM:")]
            if mark:
                marks[each] = int(mark[0].split()[1]) * 1024


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in _family(int(child)))]


def as_text(name: str, figures: Mapping[str, Any]) -> str:
    """Figures of a case, a line each; nested ones under their names joined by points."""
    lines: list[str] = []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            lines.append(as_text(f"{name}.{key}", value))
        else:
            lines.append(f"{name}.{key}: {value}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: a few MB, for tests")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="of mindrl convert")
    parser.add_argument("--directory", type=Path, help="where to put files; a temporary place when left out")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    results: dict[str, Any] = {}
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory(dir=args.directory) as folder:
            bench = Bench(Path(folder), tiny=args.size == "tiny", rounds=args.rounds, workers=args.workers)
            results[name] = CASES[name](bench)
        if not args.json:
            print(as_text(name, results[name]), flush=True)
    if args.json:
        print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
