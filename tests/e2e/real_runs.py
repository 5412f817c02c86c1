"""Running the command line for real: in this checkout, with this interpreter, within a limit."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "configs" / "grpo_quickstart.yaml"
RUN_SECONDS = 300
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(Path(__file__).parent),  # for varied_reward
}


@dataclass(frozen=True)
class Files:
    """What a run starts from."""

    tied: Path
    untied: Path
    checkpoint: Path
    """The tied model, converted."""
    prompts: Path

    def overrides(self, model: Path) -> list[str]:
        """Overrides of the quick start's configuration that make it use these files."""
        return [
            f"model.path={model}",
            f"model.checkpoint={self.checkpoint if model == self.tied else 'null'}",
            f"data.train=[{{path: {self.prompts}}}]",
            "data.eval=[]",
            "trainer.eval_interval=0",
            "actor.lr_schedule.warmup_steps=0",
            "reward.functions=[{name: 'varied_reward:early_letters'}]",
            "cluster.worker_timeout_seconds=120",
        ]


def run_python(*arguments: object, timeout: float = RUN_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in the checkout."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, check=False
    )


def succeed(*arguments: object) -> None:
    """Run this interpreter in the checkout, and fail with its output where it fails."""
    done = run_python(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


Metrics = list[dict[str, Any]]
"""Rows of metrics.jsonl."""
Train = Callable[..., Metrics]
"""The `train` fixture."""
