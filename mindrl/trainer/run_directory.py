"""What a run leaves behind, and where: the layout that `mindrl report` and people rely on."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import require_place_for


class RunDirectory:
    """`trainer.output_dir`: config.yaml, hal.txt, hal.json, metrics.jsonl, summary.json, samples/, checkpoints/, logs/."""

    OURS = (
        "config.yaml", "hal.txt", "hal.json", "metrics.jsonl", "summary.json", "eval.json", "report.html",
        "samples", "checkpoints", "logs",
    )  # fmt: skip

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """Megatron checkpoints."""
        return self.path / "checkpoints"

    def check(self, *, overwrite: bool) -> None:
        """`RequestError` where the directory holds an earlier run and `overwrite` is not given."""
        require_place_for(self.path, "trainer.output_dir")
        if self.path.exists() and not self.path.is_dir():
            raise RequestError(f"trainer.output_dir: {self.path} is a file. Name a directory.")
        held = [name for name in self.OURS if (self.path / name).exists()]
        if held and not overwrite:
            raise RequestError(
                f"trainer.output_dir: {self.path} already holds a run ({', '.join(held)}). Name another directory "
                "(trainer.output_dir=...), or give --overwrite to replace it."
            )

    def check_inputs(self, inputs: Iterable[Path]) -> None:
        """`RequestError` where `prepare` would delete what the run starts from."""
        for path in inputs:
            if path.resolve() == self.path.resolve():
                raise RequestError(
                    f"trainer.output_dir: {self.path} is what the run starts from, and its results must not mix with "
                    "that. Name another directory (trainer.output_dir=...)."
                )
            for name in self.OURS:
                ours = (self.path / name).resolve()
                if ours == path.resolve() or ours in path.resolve().parents:
                    raise RequestError(
                        f"trainer.output_dir: the run starts from {path}, which lies in {self.path / name}, and a new run "
                        "clears that. Name another directory (trainer.output_dir=...)."
                    )

    def prepare(self) -> None:
        """Make the directory and clear what an earlier run left in it, and nothing else."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in self.OURS:
            held = self.path / name
            if held.is_dir():
                shutil.rmtree(held)
            else:
                held.unlink(missing_ok=True)
        (self.path / "logs").mkdir()

    def rewind(self, step: int) -> None:
        """Remove what the run has said of steps after `step`, and of its end; metrics.jsonl is the recorder's."""
        (self.path / "summary.json").unlink(missing_ok=True)
        for path in (self.path / "samples").glob("step_*.parquet"):
            if int(path.stem.removeprefix("step_")) > step:
                path.unlink()

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        partial = self.path / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path / name)

    def write_json(self, name: str, value: Mapping[str, object]) -> None:
        """Write a JSON file whole or not at all."""
        self.write_text(name, json.dumps(value, indent=2) + "\n")
