import numpy as np
import pytest
import torch.distributed as dist
from distributed import run_distributed

from mindrl.data.records import Sample
from mindrl.workers.logprob_gap import LogprobGapError, check_logprob_gap, measure_logprob_gap


def sample(rollout_log_probs: list[float], version: int = 3, mask: list[bool] | None = None) -> Sample:
    length = len(rollout_log_probs)
    return Sample(
        sample_id=0,
        group_id=0,
        prompt_ids=np.array([1], np.int32),
        response_ids=np.arange(length, dtype=np.int32),
        response_mask=np.array(mask or [True] * length),
        rollout_log_probs=np.array(rollout_log_probs, np.float32),
        finish_reason="stop",
        weight_version=np.full(length, version, np.int32),
    )


def test_gap_is_over_the_tokens_that_the_policy_chose():
    gap = measure_logprob_gap(
        [sample([-1.0, -2.0, -9.0], mask=[True, True, False])], [np.array([-1.5, -2.0, 0.0])]
    )
    assert (gap.max, gap.mean, gap.worst_rank, gap.weight_versions) == (0.5, 0.25, 0, (3,))


def test_a_gap_that_is_not_a_number_is_the_largest_there_is():
    gap = measure_logprob_gap([sample([-1.0])], [np.array([np.nan], np.float32)])
    with pytest.raises(LogprobGapError):
        check_logprob_gap(gap, stop=1e9, step=1)


def test_the_stop_names_step_worker_and_weight_version():
    gap = measure_logprob_gap([sample([-1.0])], [np.array([-2.0], np.float32)])
    check_logprob_gap(gap, stop=1.0, step=7)
    with pytest.raises(LogprobGapError, match=r"step 7: .* worker 0, weight versions \[3\]"):
        check_logprob_gap(gap, stop=0.5, step=7)


def check_the_gap_of_this_rank() -> None:
    rank = dist.get_rank()
    ours = [sample([-1.0, -1.0], version=rank)]
    gap = measure_logprob_gap(ours, [np.array([-1.0, -1.0 - rank], np.float32)])
    assert (gap.max, gap.mean, gap.worst_rank, gap.weight_versions) == (1.0, 0.25, 1, (0, 1))


def test_every_rank_finds_the_same_gap_over_all_ranks():
    run_distributed(check_the_gap_of_this_rank, 2)
