"""`mindrl preprocess`: rows per second and worker, growth of time with rows, memory over large files.

    python benchmarks/preprocess.py --tokenizer DIR [--rows 50000] [--gigabytes 2.2] [--json]

Makes its own data: short problems for speed, and for memory rows of 16 KB of which little is tokenized. Every figure is
of the real command in a process of its own. Seconds are of the whole command; `rows_per_second` is taken between two
sizes, so that starting Python and loading the tokenizer drop out; `rows_per_cpu_second` is the same by the processor
time of all its processes, for machines that have other things to do. Memory is the resident set of the command and its
workers, added up every 50 ms; pages that they share are counted in each.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.05
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Run:
    """One call of the command."""

    workers: int
    rows: int
    file_megabytes: int
    seconds: float
    cpu_seconds: float
    """Of the command and its workers."""
    peak_megabytes: int


def main() -> int:
    parser = argparse.ArgumentParser(description="time and memory of mindrl preprocess")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a Hugging Face directory")
    parser.add_argument("--rows", type=int, default=50_000, help="N; 4N is measured too")
    parser.add_argument(
        "--gigabytes", type=float, default=2.2, help="size of the large file; a quarter of it is measured too"
    )
    parser.add_argument(
        "--directory", type=Path, help="where to put the files; a temporary place when left out"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        figures = measure(Path(folder), args.tokenizer, args.rows, int(args.gigabytes * 1024 * MEGABYTE))
    print(json.dumps(figures, indent=2) if args.json else as_text(figures))
    return 0


def measure(folder: Path, tokenizer: Path, rows: int, large_bytes: int) -> dict[str, object]:
    """All figures."""
    short = [write(folder / f"short{n}.jsonl", problems(n, 300)) for n in (1, rows, 4 * rows)]
    speed = [run(path, tokenizer, workers) for workers in (1, 2) for path in short]
    large_rows = large_bytes // 16_384
    large = []
    for count in (large_rows // 4, large_rows):
        path = write(folder / "large.jsonl", problems(count, 16_000))
        large.append(run(path, tokenizer, 2))
        path.unlink()
    per_worker = {}
    for workers in (1, 2):
        _, small, big = (each for each in speed if each.workers == workers)
        rate = (big.rows - small.rows) / (big.seconds - small.seconds)
        by_cpu = (big.rows - small.rows) / (big.cpu_seconds - small.cpu_seconds)
        per_worker[workers] = {
            "rows_per_second": round(rate),
            "rows_per_second_and_worker": round(rate / workers),
            "rows_per_cpu_second": round(by_cpu),
        }
    start, small, big = speed[:3]
    return {
        "cores": os.cpu_count(),
        "speed": per_worker,
        "cpu_of_4n_over_4_times_n": round(
            (big.cpu_seconds - start.cpu_seconds) / (small.cpu_seconds - start.cpu_seconds) / 4, 3
        ),
        "runs": [asdict(each) for each in (*speed, *large)],
    }


def problems(count: int, solution_characters: int) -> Iterator[str]:
    """Rows as JSON: a question of about 60 words and a solution that ends in its answer."""
    generator = random.Random(0)
    words = [
        f"{a}{b}"
        for a in ("ba", "ki", "mo", "tru", "sel", "for")
        for b in ("n", "ler", "ting", "wood", "s", "ment")
    ]
    for _ in range(count):
        text = " ".join(generator.choices(words, k=60))
        answer = generator.randrange(10_000)
        solution = ("so it goes on. " * (solution_characters // 15 + 1))[:solution_characters]
        yield json.dumps(
            {"question": f"{text} {generator.random()}?", "answer": f"{solution}\n#### {answer}"}
        )


def write(path: Path, rows: Iterator[str]) -> Path:
    """One row a line."""
    with path.open("w") as file:
        file.writelines(f"{row}\n" for row in rows)
    return path


def run(path: Path, tokenizer: Path, workers: int) -> Run:
    """Preprocess a file and watch the command and its workers."""
    yaml = path.with_name("set.yaml")
    yaml.write_text(
        f"input: {path}\noutput_prefix: {path.parent}/out\ntokenizer_name_or_path: {tokenizer}\nworkers: {workers}\n"
        "prompt_type: default\nhandler_name: gsm8k\nseq_length: 1024\nmap_keys: {prompt: question, response: answer}\n"
    )
    command = [sys.executable, "-m", "mindrl", "preprocess", str(yaml), "--overwrite", "--json"]
    began, cpu_before = time.perf_counter(), cpu_of_children()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(psutil.Process(process.pid)))
            time.sleep(SAMPLE_SECONDS)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    seconds = time.perf_counter() - began
    rows = json.loads(output)["num_prompts"]
    size = path.stat().st_size // MEGABYTE
    cpu = cpu_of_children() - cpu_before
    return Run(workers, rows, size, round(seconds, 2), round(cpu, 2), peak // MEGABYTE)


def cpu_of_children() -> float:
    """Processor seconds of all processes that have ended under this one."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def resident(process: psutil.Process) -> int:
    """Bytes of a process and those it started."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # one ended meanwhile; the next sample counts
    return total


def as_text(figures: dict[str, object]) -> str:
    """The figures as a table."""
    lines = [f"{'workers':>7} {'rows':>8} {'file MB':>8} {'seconds':>8} {'cpu s':>8} {'peak MB':>8}"]
    runs = figures["runs"]
    assert isinstance(runs, list)
    lines += [
        f"{r['workers']:>7} {r['rows']:>8} {r['file_megabytes']:>8} {r['seconds']:>8.1f} {r['cpu_seconds']:>8.1f} {r['peak_megabytes']:>8}"
        for r in runs
    ]
    others = {key: value for key, value in figures.items() if key != "runs"}
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in others.items())])


if __name__ == "__main__":
    sys.exit(main())
