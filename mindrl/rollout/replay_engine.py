"""The samples of an earlier run again, for the same requests: what differs then is not what was sampled.

So two devices, two layouts or two versions of the program can be compared number by number, which runs that sample for
themselves can't be: one token drawn otherwise, and they part ways.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from mindrl.data.records import Request, Sample
from mindrl.data.sample_file import read_samples, samples_path
from mindrl.errors import RequestError
from mindrl.rollout.engine import Memory
from mindrl.rollout.requests import Ledger, Limits


class ReplayEngine:
    """A `RolloutEngine` that looks up what the run in `run_dir` recorded; it computes nothing and needs no device.

    A request is known by the weights' version, which counts the steps that are done, and its sample_id; its prompt must
    be the recorded one. Requests are answered whole, in one engine step."""

    def __init__(self, run_dir: Path, limits: Limits) -> None:
        """`run_dir` holds samples/step_000001.parquet and so on, one file for each step that is asked for."""
        self.weight_version = -1
        self._run_dir = run_dir
        self._ledger = Ledger(limits)
        self._recorded: dict[int, Sample] = {}
        self._answers: dict[int, Sample] = {}
        self._paused = False

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. `ValueError` names a request that can't be served, or was not recorded."""
        if requests and self.weight_version >= 0 and not self._recorded:
            self._recorded = self._read(self.weight_version + 1)
        entries = self._ledger.open(requests, self.weight_version)
        try:
            answers = {entry.request.sample_id: self._find(entry.request) for entry in entries}
        except RequestError:
            for entry in entries:
                self._ledger.close(entry.request.sample_id, "abort")
            raise
        self._answers |= answers

    def collect(self, max_engine_steps: int | None = None) -> list[Sample]:
        """What was recorded for the queued requests, in order of sample_id."""
        if self._paused or max_engine_steps == 0:
            return []
        for sample_id in self._answers:
            self._ledger.close(sample_id, "stop")
        answers, self._answers = self._answers, {}
        return [answers[sample_id] for sample_id in sorted(answers)]

    def abort(self, sample_ids: Sequence[int]) -> list[Sample]:
        """Take requests back; they come without a token and with finish_reason `abort`."""
        known = self._ledger.known(sample_ids)
        for sample_id in known:
            del self._answers[sample_id]
        return [self._ledger.close(sample_id, "abort") for sample_id in sorted(known)]

    def pause(self) -> None:
        """Keep queued requests but stop working on them; `collect` returns at once until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Continue after `pause`."""
        self._paused = False

    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Go on to the samples that weights of this version drew; the tensors are made and dropped."""
        for _ in tensors:  # making them may be collective
            pass
        self.weight_version = version
        self._recorded = {}

    def sleep(self, tags: Sequence[Memory] = ("weights", "kv_cache")) -> None:
        """There is no memory to free; as everywhere, weights must be updated afterwards."""
        if "weights" in tags:
            self.weight_version = -1

    def wake_up(self, tags: Sequence[Memory] = ("weights", "kv_cache")) -> None:
        """Nothing was given up."""

    def close(self) -> None:
        """Free everything."""
        self._recorded, self._answers = {}, {}

    def _read(self, step: int) -> dict[int, Sample]:
        path = samples_path(self._run_dir, step)
        if not path.exists():
            raise RequestError(
                f"samples of step {step} were asked for, and {path} does not exist; record the run with "
                "trainer.sample_interval=1"
            )
        return {sample.sample_id: sample for sample in read_samples(path)}

    def _find(self, request: Request) -> Sample:
        """The recorded sample; `RequestError` where there is none, or one of another request."""
        name = f"request {request.sample_id} of step {self.weight_version + 1}"
        recorded = self._recorded.get(request.sample_id)
        if recorded is None:
            raise RequestError(
                f"{name} was not recorded in {self._run_dir}, which has {len(self._recorded)} samples of that step"
            )
        if not np.array_equal(recorded.prompt_ids, request.prompt_ids):
            raise RequestError(
                f"{name} has the prompt {_shown(request.prompt_ids)}, and the one recorded in {self._run_dir} has "
                f"{_shown(recorded.prompt_ids)}; the two runs need the same prompts in the same order"
            )
        if len(recorded.response_ids) > request.sampling.max_tokens:
            raise RequestError(
                f"{name} allows {request.sampling.max_tokens} tokens, and the response recorded in {self._run_dir} has "
                f"{len(recorded.response_ids)}"
            )
        if recorded.weight_version[-1] != self.weight_version:
            raise RequestError(
                f"{name} is for weights of version {self.weight_version}, and the one recorded in {self._run_dir} came from "
                f"version {recorded.weight_version[-1]}"
            )
        return recorded


def _shown(ids: np.ndarray) -> str:
    return f"{ids[:8].tolist()}" + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
