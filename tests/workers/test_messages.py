import pickle

import numpy as np

from mindrl.data.records import Sample
from mindrl.workers.messages import SampleFacts


def sample(length: int) -> Sample:
    return Sample(
        sample_id=1,
        group_id=0,
        prompt_ids=np.zeros(length, np.int32),
        response_ids=np.zeros(length, np.int32),
        response_mask=np.arange(length) % 2 == 0,
        rollout_log_probs=np.zeros(length, np.float32),
        finish_reason="length",
        weight_version=np.zeros(length, np.int32),
    )


def test_what_reaches_the_driver_does_not_grow_with_tokens():
    short, long = (len(pickle.dumps(SampleFacts.of(sample(length)))) for length in (300, 30_000))
    assert long < short + 8  # a larger number, not more numbers


def test_facts_count_the_tokens_that_the_policy_chose():
    facts = SampleFacts.of(sample(10))
    assert (facts.prompt_length, facts.response_length, facts.num_policy_tokens) == (10, 10, 5)
    assert facts.weight_version == 0
