"""When the run is saved, what is kept, and where it continues."""

from mindrl.checkpoint.directories import iteration_name, remove_checkpoint, remove_leftovers
from mindrl.config.schema import Config
from mindrl.trainer.prompts import Prompts
from mindrl.trainer.recorder import Recorder
from mindrl.trainer.resume import ResumePoint
from mindrl.trainer.run_directory import RunDirectory
from mindrl.workers.policy import Policy


class Checkpoints:
    """Saves every `trainer.save_interval` steps and after the last one; keeps the `trainer.keep_last` newest.

    A checkpoint holds all that the next step depends on: the workers' part (weights, optimizer, generators) and the
    driver's (place in the prompts, metrics so far, which checkpoints are the run's own)."""

    def __init__(
        self,
        policy: Policy,
        prompts: Prompts,
        recorder: Recorder,
        config: Config,
        directory: RunDirectory,
        resume: ResumePoint | None,
    ) -> None:
        self._policy = policy
        self._prompts = prompts
        self._recorder = recorder
        self._config = config
        self._directory = directory
        self._resume = resume
        self._saved: list[int] = []

    def restore(self) -> int:
        """Bring a resumed run to where its checkpoint was taken; returns the number of steps done."""
        if self._resume is None:
            return 0
        remove_leftovers(self._directory.checkpoints)
        restored = self._policy.restore(self._resume.checkpoint, self._resume.step, self._config)
        self._prompts.load_state(restored.progress["prompts"])
        self._recorder.restore(restored.progress["metrics"])
        self._saved = list(restored.progress["saved"])
        self._recorder.note(f"continuing after step {self._resume.step}")
        if not restored.same_layout:
            self._recorder.note(
                "the checkpoint was saved in another layout: random generators of the workers start anew, from seed and "
                "step, and sums are rounded in another order, so the run goes on equally well but not identically"
            )
        return self._resume.step

    def save(self, step: int) -> None:
        """Save where the step's turn has come."""
        trainer = self._config.trainer
        due = trainer.save_interval and step % trainer.save_interval == 0
        if due or step == trainer.total_steps:
            self._saved = [*(earlier for earlier in self._saved if earlier < step), step]
            progress = {
                "prompts": self._prompts.state(),
                "metrics": self._recorder.rows,
                "saved": self._saved,
            }
            self._policy.save(self._directory.checkpoints, step, self._config.model.path, progress)
            self._forget_old_ones()

    def _forget_old_ones(self) -> None:
        """Only what this run saved, and only once something newer is complete."""
        keep = self._config.trainer.keep_last
        if keep is not None:
            for step in self._saved[:-keep]:
                remove_checkpoint(self._directory.checkpoints / iteration_name(step))
            self._saved = self._saved[-keep:]
