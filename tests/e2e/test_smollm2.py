"""examples/grpo/grpo_trainer_smollm2_135m.sh: a real pretrained model learns. The runs themselves are `slow`:

bash tests/run.sh tests/e2e/test_smollm2.py -m slow
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from real_runs import ENVIRONMENT, ROOT

SCRIPT = "examples/grpo/grpo_trainer_smollm2_135m.sh"
SECONDS = 3600
"""A limit, not a bar: it takes a quarter of an hour on two idle cores."""


def run(*arguments: str, timeout: float = 30, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in ENVIRONMENT.items() if name != "DATA"}
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=ROOT, env=known | environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["gsm8k"], {}, "set DATA"),
        (["gsm8k"], {"DATA": "nowhere/train.jsonl"}, "nowhere/train.jsonl"),
        (["gsm9k"], {}, "'gsm9k' is not key=value"),
        (["trainer.output_dir=elsewhere"], {}, "outputs/smollm2_135m only"),
        ([], {"SEED": "one"}, "SEED is 'one'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_request_that_cannot_be_meant_is_refused_before_anything_is_installed(
    arguments: list[str], environment: dict[str, str], reason: str
):
    done = run(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
def test_smollm2_learns_sums_and_gets_better_on_pairs_it_never_saw():
    done = run(timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((ROOT / "outputs/smollm2_135m/summary.json").read_text())
    assert summary["steps"] <= 40
    assert summary["reward_last"] - summary["reward_first"] >= 0.3
    assert summary["eval_after"] - summary["eval_before"] >= 0.1


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
def test_five_steps_on_real_questions_show_lengths_cuts_format_and_gap():
    if "MINDRL_TEST_DATA" not in os.environ:
        pytest.skip("MINDRL_TEST_DATA is not set: there is no GSM8K here")
    data = Path(os.environ["MINDRL_TEST_DATA"]) / "data/gsm8k/train.jsonl"
    done = run("gsm8k", timeout=SECONDS, DATA=str(data))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = (ROOT / "outputs/smollm2_135m_gsm8k/metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert len(metrics) == 5
    for row in metrics:
        assert 0 < row["response_length/mean"] <= row["response_length/max"] <= 128
        assert 0 <= row["response_length/truncated_fraction"] <= 1
        assert 0 < row["logprob_gap/max"] < 3
        assert "reward/boxed_format" in row
