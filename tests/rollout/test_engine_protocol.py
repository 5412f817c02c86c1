"""What every rollout engine does, asked of each of them."""

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import MAX_MODEL_LENGTH, MAX_SEQUENCES, Served
from rollout_models import STOP, VOCAB_SIZE, greedy, largest_gap, named_tensors, perturb, requests

from mindrl.data.records import Sample, Sampling
from mindrl.rollout.engine import generate


@pytest.fixture(scope="module", params=["hf", "vllm"])
def served(request: pytest.FixtureRequest, serve: Callable[..., Served]) -> Served:
    return serve(request.param, "qwen2", tied=True)


@pytest.fixture(autouse=True)
def nothing_left_in_flight(served: Served, request: pytest.FixtureRequest) -> None:
    """Each test starts from fresh weights and must drain what it submits."""
    if request.node.originalname != "test_requests_before_the_first_update_are_refused":
        served.engine.update_weights(named_tensors(served.model), served.engine.weight_version + 1)


def test_requests_before_the_first_update_are_refused(served: Served) -> None:
    assert served.engine.weight_version == -1
    with pytest.raises(ValueError, match="before the first update_weights"):
        served.engine.submit(requests(1))
    assert served.engine.collect() == []


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_model_at_the_sampling_temperature(
    served: Served, temperature: float
) -> None:
    samples = generate(served.engine, requests(24, temperature=temperature))
    assert largest_gap(served.model, samples, temperature) < 1e-4


def test_greedy_decoding_equals_transformers(served: Served) -> None:
    asked = requests(10, temperature=0.0)
    assert [sample.response_ids.tolist() for sample in generate(served.engine, asked)] == [
        greedy(served.model, request) for request in asked
    ]


def test_samples_repeat_their_request_and_say_how_they_ended(served: Served) -> None:
    asked = requests(40, max_tokens=24, temperature=2.0)
    samples = generate(served.engine, asked)
    for request, sample in zip(asked, samples, strict=True):
        assert (sample.sample_id, sample.group_id) == (request.sample_id, request.group_id)
        np.testing.assert_array_equal(sample.prompt_ids, request.prompt_ids)
        assert len(sample.response_ids) == len(sample.rollout_log_probs) == len(sample.weight_version)
        assert sample.response_mask.all()
        assert set(sample.weight_version) == {served.engine.weight_version}
        assert STOP not in sample.response_ids[:-1]
        if sample.finish_reason == "stop":
            assert sample.response_ids[-1] == STOP
        else:
            assert sample.finish_reason == "length"
            assert len(sample.response_ids) == 24
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}


def test_only_stop_token_ids_end_a_response(served: Served) -> None:
    """The model's own eos_token_id (2) is a token like any other."""
    samples = generate(served.engine, requests(40, max_tokens=24, temperature=2.0, stop=()))
    assert {sample.finish_reason for sample in samples} == {"length"}
    assert any(2 in sample.response_ids[:-1] for sample in samples)


def test_what_is_sampled_depends_on_the_seed_and_not_on_the_neighbours(served: Served) -> None:
    asked = requests(12)
    together = generate(served.engine, asked)
    reversed_order = generate(served.engine, asked[::-1])[::-1]
    alone = [sample for request in asked[:3] for sample in generate(served.engine, [request])]
    assert _tokens(together) == _tokens(reversed_order)
    assert _tokens(together[:3]) == _tokens(alone)
    assert _tokens(together) != _tokens(generate(served.engine, requests(12, seed=1)))
    assert together[0].response_ids.tolist() != together[1].response_ids.tolist(), "one prompt, two seeds"


def test_sampling_follows_the_distribution(served: Served) -> None:
    prompt = requests(1)[0].prompt_ids
    asked = [dataclasses.replace(request, prompt_ids=prompt) for request in requests(2000, max_tokens=1)]
    drawn = np.bincount(
        [int(sample.response_ids[0]) for sample in generate(served.engine, asked)], minlength=96
    )
    with torch.no_grad():
        expected = (
            served.model(torch.from_numpy(prompt).long()[None]).logits[0, -1].softmax(-1).numpy() * 2000
        )
    deviation = (drawn - expected) / np.sqrt(expected * (1 - expected / 2000))
    assert np.abs(deviation[expected > 5]).max() < 4.5


def test_top_k_and_top_p_renormalise_over_what_they_keep(served: Served) -> None:
    sampling = Sampling(temperature=1.5, max_tokens=1, top_k=5, top_p=0.8)
    asked = [dataclasses.replace(request, sampling=sampling) for request in requests(60)]
    for sample in generate(served.engine, asked):
        with torch.no_grad():
            logits = served.model(torch.from_numpy(sample.prompt_ids).long()[None]).logits[0, -1] / 1.5
        five = logits.topk(5)
        kept = five.values.softmax(-1)
        kept = kept[: int((kept.cumsum(-1) - kept < 0.8).sum())]
        place = five.indices[: len(kept)].tolist().index(int(sample.response_ids[0]))
        assert sample.rollout_log_probs[0] == pytest.approx(float((kept / kept.sum()).log()[place]), abs=1e-4)


def test_collect_stops_after_the_steps_it_was_given_and_goes_on_later(served: Served) -> None:
    asked = requests(MAX_SEQUENCES, max_tokens=6, stop=())
    expected = _tokens(generate(served.engine, asked))
    served.engine.submit(asked)
    assert served.engine.collect(max_engine_steps=3) == []
    finished = served.engine.collect()
    assert [sample.sample_id for sample in finished] == [request.sample_id for request in asked]
    assert _tokens(finished) == expected


def test_more_requests_than_sequences_wait_their_turn(served: Served) -> None:
    asked = requests(5 * MAX_SEQUENCES, max_tokens=4)
    assert len(generate(served.engine, asked)) == len(asked)


def test_aborted_requests_come_back_with_what_they_have(served: Served) -> None:
    asked = requests(4, max_tokens=10, stop=())
    expected = generate(served.engine, asked)
    served.engine.submit(asked)
    served.engine.collect(max_engine_steps=3)
    aborted = served.engine.abort([3, 1])
    assert [sample.sample_id for sample in aborted] == [1, 3]
    for sample in aborted:
        assert sample.finish_reason == "abort"
        assert sample.response_ids.tolist() == expected[sample.sample_id].response_ids[:3].tolist()
    rest = served.engine.collect()
    assert _tokens(rest) == _tokens([expected[0], expected[2]])


def test_a_request_can_be_aborted_before_it_ran_and_its_id_used_again(served: Served) -> None:
    asked = requests(2)
    served.engine.submit(asked)
    assert [len(sample.response_ids) for sample in served.engine.abort([0, 1])] == [0, 0]
    assert served.engine.collect() == []
    assert len(generate(served.engine, asked)) == 2


def test_aborting_what_is_not_in_flight_is_an_error(served: Served) -> None:
    with pytest.raises(ValueError, match=r"\[5\] are not in flight"):
        served.engine.abort([5])


def test_a_paused_engine_keeps_its_requests_and_does_nothing(served: Served) -> None:
    asked = requests(3, max_tokens=5, stop=())
    expected = _tokens(generate(served.engine, asked))
    served.engine.submit(asked)
    served.engine.collect(max_engine_steps=2)
    served.engine.pause()
    assert served.engine.collect() == []
    served.engine.resume()
    assert _tokens(served.engine.collect()) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_ids": np.full(MAX_MODEL_LENGTH, 5, np.int32)}, "request 1 needs 64 prompt"),
        ({"prompt_ids": np.zeros(0, np.int32)}, "request 1 has an empty prompt"),
        ({"prompt_ids": np.array([5, VOCAB_SIZE], np.int32)}, "request 1 has token ids from 5 to 96"),
        ({"sampling": Sampling(1.0, 0)}, "request 1 asks for max_tokens=0"),
        ({"sampling": Sampling(-1.0, 4)}, "request 1 asks for temperature=-1.0"),
        ({"sampling": Sampling(2.5, 4)}, "request 1 asks for temperature=2.5"),
        ({"images": (b"png",)}, "request 1 has 1 images"),
        ({"sample_id": 0}, "sample_id 0 is already in flight"),
    ],
)
def test_a_request_that_cannot_be_served_is_named_and_none_of_its_batch_is_taken(
    served: Served, change: dict[str, object], message: str
) -> None:
    good, bad = requests(2)
    with pytest.raises(ValueError, match=message):
        served.engine.submit([good, dataclasses.replace(bad, **change)])
    assert served.engine.collect() == []


def test_a_prompt_may_fill_the_model_length_to_the_last_token(served: Served) -> None:
    request = dataclasses.replace(
        requests(1, max_tokens=4, stop=())[0], prompt_ids=np.full(MAX_MODEL_LENGTH - 4, 5, np.int32)
    )
    (sample,) = generate(served.engine, [request])
    assert len(sample.response_ids) == 4


def test_the_trainers_random_numbers_are_left_alone(served: Served) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    generate(served.engine, requests(12))
    served.engine.update_weights(named_tensors(served.model), served.engine.weight_version + 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])


def test_requests_in_flight_go_on_with_new_weights_and_say_which_token_came_from_which(
    served: Served,
) -> None:
    asked = requests(3, max_tokens=6, temperature=0.0, stop=())
    version = served.engine.weight_version
    served.engine.submit(asked)
    served.engine.collect(max_engine_steps=2)
    perturb(served.model, seed=11)
    served.engine.update_weights(named_tensors(served.model), version + 1)
    for request, sample in zip(asked, served.engine.collect(), strict=True):
        assert sample.weight_version.tolist() == [version] * 2 + [version + 1] * 4
        grown = dataclasses.replace(
            request,
            prompt_ids=np.concatenate([request.prompt_ids, sample.response_ids[:2]]),
            sampling=dataclasses.replace(request.sampling, max_tokens=4),
        )
        assert sample.response_ids[2:].tolist() == greedy(served.model, grown)


def test_sleeping_weights_must_be_updated_before_the_next_request(served: Served) -> None:
    served.engine.sleep()
    served.engine.wake_up(["weights"])
    with pytest.raises(ValueError, match="no weights"):
        served.engine.submit(requests(1))
    served.engine.update_weights(named_tensors(served.model), 100)
    served.engine.wake_up(["kv_cache"])
    assert largest_gap(served.model, generate(served.engine, requests(4)), 1.0) < 1e-4


def _tokens(samples: list[Sample]) -> list[list[int]]:
    return [sample.response_ids.tolist() for sample in samples]
