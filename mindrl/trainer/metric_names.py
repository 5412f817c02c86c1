"""Every number a run writes: its name, unit and meaning. docs/metrics.md is generated from this table.

`python -m mindrl.trainer.metric_names > docs/metrics.md` writes the page again; a test compares them.
"""

import difflib
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One name, or a family of names where it holds `<...>`."""

    name: str
    unit: str
    meaning: str
    wall_clock: bool = False
    """Depends on how fast the machine was, so two runs with one seed differ in it."""

    def matches(self, name: str) -> bool:
        """Whether `name` is this metric or a member of this family."""
        return re.fullmatch(re.sub(r"<\w+>", ".+", re.escape(self.name)), name) is not None


METRICS = (
    Metric("reward/mean", "reward", "mean over the step's responses of the weighted sum of reward functions"),
    Metric("reward/std", "reward", "standard deviation (population) over the step's responses"),
    Metric(
        "reward/timeout_fraction",
        "fraction",
        "responses whose scoring ran out of time or crashed; they score 0, or as little as the step's worst",
    ),
    Metric("reward/<function>", "score", "mean score of one reward function, before its weight"),
    Metric("response_length/mean", "tokens", "mean length of the responses, closing token included"),
    Metric("response_length/max", "tokens", "length of the longest response"),
    Metric("response_length/truncated_fraction", "fraction", "responses cut at `data.max_response_length`"),
    Metric(
        "kl/reference",
        "nats per token",
        "KL divergence from the reference policy by `algorithm.kl.estimator`; absent without a reference",
    ),
    Metric(
        "kl/ppo",
        "nats per token",
        "k3 estimate of KL(policy before the step's updates, which sampled, || policy), mean over mini-batches",
    ),
    Metric(
        "entropy", "nats per token", "mean entropy of the next-token distribution at the rollout temperature"
    ),
    Metric(
        "clip_fraction", "fraction", "response tokens whose ratio was clipped, so that they gave no gradient"
    ),
    Metric("loss/policy", "", "clipped surrogate, reduced by `algorithm.reduction`"),
    Metric("loss/total", "", "what was differentiated: policy loss, KL penalty and entropy bonus"),
    Metric(
        "grad_norm", "", "norm of the global gradient before clipping, mean over the step's optimizer steps"
    ),
    Metric("lr", "", "learning rate of the step"),
    Metric(
        "logprob_gap/max",
        "nats",
        "largest |log p_train - log p_rollout| of a response token, temperature included, on the same weights",
    ),
    Metric("logprob_gap/mean", "nats", "mean of |log p_train - log p_rollout| over response tokens"),
    Metric(
        "logprob_gap/p99", "nats", "99th percentile of |log p_train - log p_rollout| over response tokens"
    ),
    Metric(
        "groups/zero_variance_fraction",
        "fraction",
        "prompts whose responses all got one reward, so that they taught nothing",
    ),
    Metric("time/step", "s", "the whole step, evaluation and checkpoint excepted", wall_clock=True),
    Metric("time/rollout", "s", "generating responses", wall_clock=True),
    Metric("time/reward", "s", "waiting for rewards", wall_clock=True),
    Metric("time/reference", "s", "log-probs of the reference policy", wall_clock=True),
    Metric(
        "time/update",
        "s",
        "fetching samples, old log-probs where they need a pass, optimizer steps",
        wall_clock=True,
    ),
    Metric("time/sync", "s", "handing the new weights to the rollout engines", wall_clock=True),
    Metric(
        "throughput/tokens_per_second",
        "tokens/s",
        "prompt and response tokens of the step (no padding) over time/step",
        wall_clock=True,
    ),
    Metric(
        "throughput/tokens_per_second_per_device",
        "tokens/s",
        "the same, over the number of devices",
        wall_clock=True,
    ),
    Metric(
        "weight_version",
        "",
        "oldest version of the weights that sampled a token of the step; 0 is the initial model",
    ),
    Metric(
        "eval/<set>/<metric>",
        "",
        "evaluation of the weights after the step, by file of `data.eval`: `pass_at_<k>` (chance that one of k responses"
        " is right, unbiased), `avg_at_<n>` (mean score), `response_length`, `truncated_fraction`",
    ),
)


def find(name: str) -> Metric | None:
    """The table's entry for a name; an exact name goes before a family."""
    candidates = [metric for metric in METRICS if metric.matches(name)]
    return min(candidates, key=lambda metric: metric.name.count("<"), default=None)


def check_name(name: str) -> None:
    """`ValueError` for a name that is not in the table: ours to fix, so that no number goes undocumented."""
    if find(name) is None:
        near = difflib.get_close_matches(name, [metric.name for metric in METRICS], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"metric {name!r} is not in mindrl.trainer.metric_names.METRICS{hint} Add it there first."
        )


def reproducible(name: str) -> bool:
    """Whether two runs with the same seed on the same machine must agree on this metric exactly."""
    metric = find(name)
    return metric is not None and not metric.wall_clock


def markdown_page() -> str:
    """docs/metrics.md."""
    rows = "\n".join(
        f"| `{m.name}` | {m.unit or '-'} | {m.meaning.replace('|', chr(92) + '|')} |" for m in METRICS
    )
    return f"""# Metrics

Generated from `mindrl/trainer/metric_names.py`; `python -m mindrl.trainer.metric_names > docs/metrics.md` writes it again.

`metrics.jsonl` in the run directory holds one JSON object a step: `"step"` (the first is 1; an evaluation of the
initial model stands as step 0) and the names below.
TensorBoard (`logs/tensorboard`) and Weights & Biases (`logs/wandb`) get the same names. A metric that has no value in
a step is left out. A value that is not finite (NaN, infinity) stands as `null` in `metrics.jsonl`, because JSON has no
word for it: the step stays, and a computation that went wrong stays visible.

| name | unit | meaning |
|---|---|---|
{rows}

Two runs with the same seed on the same machine give the same numbers, except `time/*` and `throughput/*`.
"""


if __name__ == "__main__":
    print(markdown_page(), end="")
