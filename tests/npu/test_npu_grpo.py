"""The quick start's GRPO run on an NPU, real or virtual: two integrated workers under Ray and over HCCL, hf_engine.

What this shows on the virtual NPU: the Ascend code path from devices and kernels to weight sync and checkpoints runs,
and computes what the CPU computes. What it does not show: Ascend's numerics, its speed, its operators' own rules.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

import hal
from mindrl.trainer.metric_names import reproducible
from tests.e2e.real_runs import QUICKSTART, ROOT, Files, Metrics, run_python, succeed

CLOSE = 1e-4


@dataclass(frozen=True)
class Run:
    """A finished run."""

    directory: Path

    @property
    def metrics(self) -> Metrics:
        return [json.loads(line) for line in (self.directory / "metrics.jsonl").read_text().splitlines()]

    def read(self, name: str) -> dict[str, object]:
        return json.loads((self.directory / name).read_text())


def prepare(place: Path, *warm_up: object) -> Files:
    """The quick start's data and model, and the model converted."""
    data, model, prompts = place / "data", place / "model", place / "data" / "train"
    preprocess = ("-m", "mindrl", "preprocess", "configs/datasets/sort_digits.yaml")
    succeed("examples/data/make_sort_digits.py", "--output-dir", data)
    succeed(
        "examples/data/make_tiny_model.py", "--data", data / "train.jsonl", "--output-dir", model, *warm_up
    )
    for name in ("train", "heldout"):
        succeed(
            *preprocess, f"input={data / name}.jsonl", f"output_prefix={data / name}", f"tokenizer_name_or_path={model}"
        )  # fmt: skip
    succeed(
        "-m", "mindrl", "convert", "--load-model-type", "hf", "--save-model-type", "mg",
        "--load-dir", model, "--save-dir", place / "mcore",
    )  # fmt: skip
    return Files(model, model, place / "mcore", prompts.with_suffix(".parquet"))


def train(output: Path, *overrides: object, timeout: float = 300) -> Run:
    done = run_python(
        "-m", "mindrl", "train", QUICKSTART, *overrides, f"trainer.output_dir={output}", timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Run(output)


@pytest.fixture(scope="module")
def runs(npu: hal.Accelerator, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Three steps on it, and again on the CPU with the NPU's samples."""
    place = tmp_path_factory.mktemp("grpo")
    files = prepare(place, "--stop-reward", 0, "--max-steps", 1)
    common = [*files.overrides(files.tied), "trainer.total_steps=3"]
    record = ["hal.accelerator=npu", "rollout.engine=hf", "trainer.sample_interval=1"]
    recorded = train(place / "npu", *common, *record)
    replay = ["rollout.engine=replay", f"rollout.replay_from={recorded.directory}"]
    return recorded, train(place / "cpu", *common, "hal.accelerator=cpu", *replay)


def test_three_steps_on_the_npu_equal_those_of_a_cpu_that_replays_them(runs: tuple[Run, Run]):
    npu, cpu = (run.metrics for run in runs)
    assert len(npu) == len(cpu) == 3
    for of_npu, of_cpu in zip(npu, cpu, strict=True):
        names = {name for name in of_npu if reproducible(name)}
        assert names == {name for name in of_cpu if reproducible(name)}
        assert len(names) > 15
        for name in names:
            assert of_npu[name] == pytest.approx(of_cpu[name], abs=CLOSE), (of_npu["step"], name)
    assert npu[-1]["grad_norm"] > 1e-3  # something was learned from
    assert npu[-1]["kl/reference"] > 1e-7


def test_the_npu_run_was_one(runs: tuple[Run, Run]):
    npu, cpu = runs
    facts, summary = npu.read("hal.json"), npu.read("summary.json")
    assert (summary["device"], summary["world_size"]) == ("npu", 2)
    assert (facts["accelerator"], facts["rollout_engine"]) == ("npu", "hf")
    fused = {op for op, kernel in facts["kernels"].items() if kernel["provider"] == "torch_npu"}  # type: ignore
    assert fused >= {"attention", "rms_norm", "rotary", "swiglu"}
    assert cpu.read("hal.json")["rollout_engine"] == "replay"


def test_what_the_npu_saved_goes_on_on_the_cpu(runs: tuple[Run, Run]):
    """Weights, optimizer and progress; generators of another device start anew from seed and step."""
    npu = runs[0].directory
    overrides = ["hal.accelerator=cpu", "rollout.engine=hf", "trainer.total_steps=4"]
    done = run_python("-m", "mindrl", "train", npu / "config.yaml", "--resume", *overrides)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = Run(npu).metrics
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["weight_version"] == 3
    assert rows[-1]["logprob_gap/max"] < CLOSE


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("npu")
def test_the_whole_quick_start_learns_on_the_npu(tmp_path: Path):
    """By the quick start's own bars."""
    files = prepare(tmp_path)
    evaluation = files.prompts.with_name("heldout.parquet")
    run = train(
        tmp_path / "run", f"model.path={files.tied}", f"model.checkpoint={files.checkpoint}",
        f"data.train=[{{path: {files.prompts}}}]", f"data.eval=[{{path: {evaluation}}}]",
        "hal.accelerator=npu", "rollout.engine=hf", timeout=1800,
    )  # fmt: skip
    weights = run.directory / "hf"
    succeed(
        "-m", "mindrl", "convert", "--load-model-type", "mg", "--save-model-type", "hf",
        "--load-dir", run.directory / "checkpoints", "--save-dir", weights,
    )  # fmt: skip
    succeed(
        "-m", "mindrl", "eval", files.tied, weights, "--dataset", evaluation, "--reward", "exact_match",
        "--accelerator", "npu", "--engine", "hf", "--output", run.directory / "eval.json",
    )  # fmt: skip
    succeed("examples/grpo/run_verdict.py", "merge", run.directory)
    verdict = run_python(ROOT / "examples/grpo/run_verdict.py", "judge", run.directory, "sorting")
    assert verdict.returncode == 0, verdict.stdout
