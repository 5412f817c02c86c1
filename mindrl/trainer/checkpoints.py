"""When the policy is saved."""

from pathlib import Path

from mindrl.trainer.recorder import Recorder
from mindrl.workers.policy import Policy


class Checkpoints:
    """Saves every `save_interval` steps and after the last one."""

    def __init__(
        self,
        policy: Policy,
        recorder: Recorder,
        *,
        directory: Path,
        hf_dir: Path,
        save_interval: int,
        total_steps: int,
    ) -> None:
        self._policy = policy
        self._recorder = recorder
        self._directory = directory
        self._hf_dir = hf_dir
        self._save_interval = save_interval
        self._total_steps = total_steps

    def save(self, step: int) -> None:
        """Save where the step's turn has come."""
        due = self._save_interval and step % self._save_interval == 0
        if due or step == self._total_steps:
            with self._recorder.timed("save"):
                self._policy.save(self._directory, step, self._hf_dir)
