"""A finished run's directory, written by the trainer's own writers."""

import json
import math
from pathlib import Path

import numpy as np

from mindrl.config.trainer import LoggingConfig
from mindrl.data.records import Sample
from mindrl.data.sample_file import SampleRow, samples_path, write_samples
from mindrl.trainer.metrics import MetricLog

CONFIG = """
model: {path: outputs/tiny}
actor: {optimizer: {lr: 1e-3, clip_grad: 1.0}}
rollout: {n_samples: 8, logprob_gap_stop: 1e-4}
trainer: {total_steps: 60, seed: 0}
"""


def metrics_at(step: int) -> dict[str, float]:
    wave = math.sin(step)
    return {
        "reward/mean": 0.1 + 0.8 * step / 60 + 0.01 * wave,
        "reward/std": 0.4,
        "response_length/mean": 8 - step / 30,
        "response_length/max": 12,
        "response_length/truncated_fraction": 0.05,
        "kl/reference": 0.004 * step,
        "kl/ppo": 1e-4 * (1 + wave),
        "entropy": 1.5 - step / 60,
        "clip_fraction": 0.01,
        "loss/policy": 0.01 * wave,
        "loss/total": 0.02 * wave,
        "grad_norm": 0.8 + 0.1 * wave,
        "lr": 1e-3,
        "logprob_gap/max": 5e-6 * (1.5 + wave),
        "logprob_gap/mean": 2e-7,
        "logprob_gap/p99": 1e-6,
        "groups/zero_variance_fraction": 0.2,
        "time/step": 1.0,
        "time/rollout": 0.4,
        "time/reward": 0.1,
        "time/reference": 0.1,
        "time/update": 0.3,
        "time/sync": 0.05,
        "throughput/tokens_per_second": 6000 + 100 * wave,
        "throughput/tokens_per_second_per_device": 3000 + 50 * wave,
        "weight_version": step - 1,
    }


def write_samples_file(run_dir: Path, step: int, response: str, reward: float) -> None:
    row = SampleRow(
        step=step,
        uid="u-0",
        prompt="sort 3041: ",
        response=response,
        ground_truth="0134",
        reward=reward,
        data_source="sort_digits",
        advantage=0.0,
        sample=Sample(
            sample_id=0,
            group_id=0,
            prompt_ids=np.array([1, 8, 5, 9, 6], np.int32),
            response_ids=np.array([5, 6, 8, 9, 2], np.int32),
            response_mask=np.ones(5, np.bool_),
            rollout_log_probs=np.full(5, -0.1, np.float32),
            finish_reason="stop",
            weight_version=np.full(5, step - 1, np.int32),
        ),
    )
    write_samples(samples_path(run_dir, step), [row])


def write_run(run_dir: Path, steps: int = 60) -> Path:
    with MetricLog(run_dir, LoggingConfig(tensorboard=False), "run", {}) as log:
        log.write(0, {"eval/sort_digits/pass_at_1": 0.25})
        for step in range(1, steps + 1):
            extra = {"eval/sort_digits/pass_at_1": 0.25 + 0.7 * step / 60} if step % 20 == 0 else {}
            log.write(step, metrics_at(step) | extra)
    write_samples_file(run_dir, 1, "9999", 0.0)
    write_samples_file(run_dir, 30, "half-way answer", 0.0)
    write_samples_file(run_dir, steps, "0134", 1.0)
    (run_dir / "config.yaml").write_text(CONFIG)
    (run_dir / "hal.txt").write_text("accelerator  cpu\nattention    torch_sdpa\n")
    summary = {"reward_first": 0.11, "reward_last": 0.86, "steps": steps, "seconds": 75.0, "device": "cpu"}
    (run_dir / "summary.json").write_text(json.dumps(summary | {"world_size": 2, "max_logprob_gap": 1.2e-5}))
    return run_dir
