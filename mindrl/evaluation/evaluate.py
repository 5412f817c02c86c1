"""Prompts through an engine, responses through a reward, figures out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mindrl.data.records import Prompt, Sample, Sampling
from mindrl.data.requests import make_requests
from mindrl.errors import RequestError
from mindrl.evaluation.result import EvaluationResult, ScoredResponse, summarize
from mindrl.rollout.engine import RolloutEngine

STEPS_BETWEEN_LOOKS = 16
"""Engine steps between two reports of progress."""


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
        """`RequestError` for more than one greedy response: they would all be equal."""
        if self.temperature == 0 and self.n_samples > 1:
            raise RequestError(
                f"evaluation with n_samples {self.n_samples} at temperature 0 gives {self.n_samples} equal responses "
                "to each prompt; use n_samples 1, or a temperature above 0"
            )

    @property
    def sampling(self) -> Sampling:
        """For the engine."""
        return Sampling(
            temperature=self.temperature,
            max_tokens=self.max_response_length,
            stop_token_ids=self.stop_token_ids,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One response in the form a reward wants it."""

    prompt: Prompt
    response: str
    """Decoded without the tokens that merely end it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out, and what it came from."""

    result: EvaluationResult
    answers: Sequence[Answer]
    """In order of prompts, `n_samples` neighbours each."""
    scored: Sequence[ScoredResponse]
    """The same responses, as facts."""


Score = Callable[[Sequence[Answer]], Sequence[float]]
Decode = Callable[[Sequence[int]], str]


def evaluate(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    score: Score,
    decode: Decode,
    settings: EvaluationSettings,
    *,
    correct_at: float = 1.0,
    on_progress: Callable[[int], None] = lambda finished: None,
) -> Evaluation:
    """Answer every prompt with the engine's present weights and score the answers.

    `on_progress` is told how many responses have just finished. `ValueError` when there is nothing to evaluate or
    the engine can't serve a prompt."""
    samples = _run(engine, prompts, settings, on_progress)
    answers = [Answer(prompts[s.group_id], decode(s.response_ids.tolist())) for s in samples]
    scored = scored_responses(samples, prompts, score(answers))
    return Evaluation(summarize(scored, correct_at), answers, scored)


def scored_responses(
    samples: Sequence[Sample], prompts: Sequence[Prompt], scores: Sequence[float]
) -> list[ScoredResponse]:
    """The facts about samples whose group_id counts into `prompts`."""
    return [
        ScoredResponse(
            group_id=sample.group_id,
            data_source=prompts[sample.group_id].data_source,
            score=score,
            response_length=len(sample.response_ids),
            truncated=sample.finish_reason == "length",
        )
        for sample, score in zip(samples, scores, strict=True)
    ]


def _run(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    settings: EvaluationSettings,
    on_progress: Callable[[int], None],
) -> list[Sample]:
    """All responses, in order of sample_id."""
    requests = make_requests(
        prompts, range(len(prompts)), settings.sampling, settings.n_samples, seed_path=(settings.seed,)
    )
    engine.submit(requests)
    samples: list[Sample] = []
    while len(samples) < len(requests):
        finished = engine.collect(max_engine_steps=STEPS_BETWEEN_LOOKS)
        samples.extend(finished)
        on_progress(len(finished))
    return sorted(samples, key=lambda sample: sample.sample_id)
