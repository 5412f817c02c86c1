"""From scored responses to pass@k, avg@k, lengths and truncation, per data source."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

ROUNDING = 1e-9
"""What a weighted sum of scores may lack: 0.7 + 0.2 + 0.1 is less than 1."""


@dataclass(frozen=True, slots=True)
class ScoredResponse:
    """The facts about one response that figures are made of; small enough to send anywhere."""

    group_id: int
    """Which prompt it answers."""
    data_source: str
    score: float
    response_length: int
    """Tokens, the closing one included."""
    truncated: bool
    """Cut at the longest allowed length."""


@dataclass(frozen=True, slots=True)
class SourceResult:
    """How well the prompts of one data source were answered."""

    num_prompts: int
    n_samples: int
    """Responses per prompt."""
    avg: float
    """avg@n: mean score over all responses."""
    pass_at: Mapping[int, float]
    """k -> pass@k, for k = 1, 2, 4, ... and n."""
    response_length: float
    """Mean, in tokens."""
    truncated_fraction: float

    def metrics(self) -> dict[str, float]:
        """By the names of docs/metrics.md, without their `eval/<set>/`."""
        return {
            **{f"pass_at_{k}": value for k, value in self.pass_at.items()},
            f"avg_at_{self.n_samples}": self.avg,
            "response_length": self.response_length,
            "truncated_fraction": self.truncated_fraction,
        }


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Figures over all prompts, and per data source."""

    overall: SourceResult
    by_source: Mapping[str, SourceResult]

    def metrics(self) -> dict[str, float]:
        """`eval/<data source>/<metric>`; with several sources also `eval/all/<metric>`."""
        sets = dict(self.by_source) if len(self.by_source) == 1 else {**self.by_source, "all": self.overall}
        return {f"eval/{name}/{key}": value for name, s in sets.items() for key, value in s.metrics().items()}

    def as_json(self) -> dict[str, object]:
        """Plain lists and mappings for a json file."""
        return asdict(self)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k responses, drawn without replacement from n of which `correct` are right, hold a right one.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, Evaluating Large Language Models Trained on
    Code, equation 1)."""
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {n} responses with {correct} right is not defined")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def summarize(responses: Sequence[ScoredResponse], correct_at: float = 1.0) -> EvaluationResult:
    """Figures of one evaluation. A response is right when its score is at least `correct_at`, rounding aside.

    `ValueError` without responses, or when prompts have different numbers of them."""
    if not responses:
        raise ValueError("no responses to evaluate")
    sources: dict[str, list[ScoredResponse]] = defaultdict(list)
    for response in responses:
        sources[response.data_source].append(response)
    return EvaluationResult(
        overall=_source_result(responses, correct_at),
        by_source={name: _source_result(sources[name], correct_at) for name in sorted(sources)},
    )


def _source_result(responses: Sequence[ScoredResponse], correct_at: float) -> SourceResult:
    groups: dict[int, list[ScoredResponse]] = defaultdict(list)
    for response in responses:
        groups[response.group_id].append(response)
    sizes = {len(group) for group in groups.values()}
    if len(sizes) > 1:
        raise ValueError(
            f"every prompt needs the same number of responses; there are prompts with {sorted(sizes)}"
        )
    (n,) = sizes
    correct = [
        sum(response.score >= correct_at - ROUNDING for response in group) for group in groups.values()
    ]
    return SourceResult(
        num_prompts=len(groups),
        n_samples=n,
        avg=math.fsum(response.score for response in responses) / len(responses),
        pass_at={k: math.fsum(pass_at_k(n, c, k) for c in correct) / len(groups) for k in _ks(n)},
        response_length=sum(response.response_length for response in responses) / len(responses),
        truncated_fraction=sum(response.truncated for response in responses) / len(responses),
    )


def _ks(n: int) -> list[int]:
    """Powers of two up to n, and n."""
    return sorted({2**i for i in range(n.bit_length())} | {n})
