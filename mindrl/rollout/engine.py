"""What a rollout engine is: requests in, samples out, weights replaced in place.

An engine may span several ranks (`rollout.tensor_parallel_size`). It is SPMD: every rank of one engine makes the
same calls in the same order with the same arguments, and `collect` is bounded by engine steps, never by a clock,
otherwise ranks part ways and hang.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import torch

from mindrl.data.records import Request, Sample

Memory = Literal["weights", "kv_cache"]


class RolloutEngine(Protocol):
    """Generates responses with the newest weights it was given."""

    weight_version: int
    """Version of the weights in use; -1 before the first `update_weights`."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. `ValueError` names a request that can't be served (too long, sample_id in use)."""
        ...

    def collect(self, max_engine_steps: int | None = None) -> list[Sample]:
        """Run the engine and return what finished, in order of sample_id.

        None runs until nothing is queued; a number runs at most that many engine steps."""
        ...

    def abort(self, sample_ids: Sequence[int]) -> list[Sample]:
        """Take requests back; what they have so far comes back with finish_reason `abort`."""
        ...

    def pause(self) -> None:
        """Keep queued requests but stop working on them; `collect` returns at once until `resume`."""
        ...

    def resume(self) -> None:
        """Continue after `pause`."""
        ...

    def update_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace all weights in place and drop every cache computed from the old ones.

        `tensors` yields full (unsharded) tensors under their Hugging Face names, one at a time, in the same order
        on every rank; producing them may be collective, so each rank must exhaust the iterator. Tied weights come
        once."""
        ...

    def sleep(self, tags: Sequence[Memory] = ("weights", "kv_cache")) -> None:
        """Free the named device memory where the device can; weights must be updated after waking them."""
        ...

    def wake_up(self, tags: Sequence[Memory] = ("weights", "kv_cache")) -> None:
        """Take the named memory back."""
        ...

    def close(self) -> None:
        """Free everything. May destroy the process's default process group, so it comes last."""
        ...


def generate(engine: RolloutEngine, requests: Sequence[Request]) -> list[Sample]:
    """Submit, run to the end, and return one sample a request, in the order of the requests."""
    engine.submit(requests)
    by_id = {sample.sample_id: sample for sample in engine.collect()}
    return [by_id[request.sample_id] for request in requests]
