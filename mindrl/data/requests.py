"""From prompts to requests."""

from collections.abc import Iterable, Sequence

import numpy as np

from mindrl.data.records import Prompt, Request, Sampling


def make_requests(
    prompts: Sequence[Prompt],
    group_ids: Iterable[int],
    sampling: Sampling,
    n_samples: int,
    seed_path: tuple[int, ...],
) -> list[Request]:
    """`n_samples` requests for each prompt that `group_ids` names by its position in `prompts`.

    A request's seed is a hash of `seed_path` (such as run seed and step) and its sample_id, so that what is sampled
    depends on nothing else: neither on the other requests nor on the engine that serves it.
    """
    return [
        Request(
            sample_id=group_id * n_samples + index,
            group_id=group_id,
            prompt_ids=prompts[group_id].prompt_token_ids,
            sampling=sampling,
            seed=request_seed(seed_path, group_id * n_samples + index),
            images=prompts[group_id].images,
        )
        for group_id in group_ids
        for index in range(n_samples)
    ]


def request_seed(seed_path: tuple[int, ...], sample_id: int) -> int:
    """31 well-mixed bits: neighbouring numbers give unrelated generators."""
    return int(np.random.SeedSequence((*seed_path, sample_id)).generate_state(1)[0]) >> 1
