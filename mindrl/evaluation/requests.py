"""Which responses an evaluation asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindrl.data.records import Prompt, Request, Sampling


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How responses are drawn."""

    max_response_length: int
    """Tokens, the closing one included."""
    stop_token_ids: tuple[int, ...]
    """Tokens that end a response."""
    temperature: float = 0.0
    """0 is greedy decoding."""
    n_samples: int = 1
    """Responses per prompt."""
    seed: int = 0

    def __post_init__(self) -> None:
        """`ValueError` for more than one greedy response: they would all be equal."""
        if self.temperature == 0 and self.n_samples > 1:
            raise ValueError(
                f"n_samples={self.n_samples} with temperature 0 gives {self.n_samples} equal responses a prompt; "
                "use n_samples=1, or a temperature above 0"
            )


def evaluation_requests(
    prompts: Sequence[Prompt], settings: EvaluationSettings, first_group_id: int = 0
) -> list[Request]:
    """`n_samples` requests a prompt, prompts numbered from `first_group_id`.

    Seeds depend on the prompt's number only, so that prompts split over engines get the responses that one engine
    would give."""
    sampling = Sampling(
        temperature=settings.temperature,
        max_tokens=settings.max_response_length,
        stop_token_ids=settings.stop_token_ids,
    )
    return [
        Request(
            sample_id=group_id * settings.n_samples + index,
            group_id=group_id,
            prompt_ids=prompt.prompt_token_ids,
            sampling=sampling,
            seed=_seed(settings.seed, group_id, index),
            images=prompt.images,
        )
        for group_id, prompt in enumerate(prompts, start=first_group_id)
        for index in range(settings.n_samples)
    ]


def _seed(run_seed: int, group_id: int, index: int) -> int:
    """31 bits, well mixed: neighbouring numbers give unrelated generators."""
    return int(np.random.SeedSequence((run_seed, group_id, index)).generate_state(1)[0]) >> 1
