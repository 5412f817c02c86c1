"""What the engine that replays a run gives, and what it refuses."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rollout_models import VOCAB_SIZE, requests

from mindrl.config import dump
from mindrl.config.schema import Config
from mindrl.data.records import Request, Sample, Sampling
from mindrl.data.sample_file import SampleRow, read_samples, samples_path, write_samples
from mindrl.errors import RequestError
from mindrl.rollout.engine import generate
from mindrl.rollout.recording import check_recording
from mindrl.rollout.replay_engine import ReplayEngine
from mindrl.rollout.requests import Limits
from tests.models.tiny_models import make_config

STEPS = 2


def sampled(request: Request, version: int) -> Sample:
    """What an engine could have drawn: another response for every sample and version, one token from a tool."""
    length = 1 + (request.sample_id + version) % 5
    response = (np.arange(length, dtype=np.int32) * 7 + request.sample_id + version) % VOCAB_SIZE
    return Sample(
        sample_id=request.sample_id,
        group_id=request.group_id,
        prompt_ids=request.prompt_ids,
        response_ids=response,
        response_mask=np.arange(length) != 1,
        rollout_log_probs=np.log1p(-1 / (2 + response.astype(np.float32))),
        finish_reason="length" if length == 5 else "stop",
        weight_version=np.full(length, version, np.int32),
    )


def record(run_dir: Path, steps: int = STEPS) -> None:
    """Write the samples of a run of 12 requests a step, as the trainer does."""
    for step in range(1, steps + 1):
        rows = [
            SampleRow(step, f"u-{request.group_id}", "p", "r", "g", 0.0, "d", 0.0, sampled(request, step - 1))
            for request in requests(12)
        ]
        write_samples(samples_path(run_dir, step), rows)


def engine(run_dir: Path, version: int = 0) -> ReplayEngine:
    started = ReplayEngine(run_dir, Limits(64, VOCAB_SIZE))
    started.update_weights([], version)
    return started


def assert_equal(first: Sample, second: Sample) -> None:
    for field in dataclasses.fields(Sample):
        a, b = getattr(first, field.name), getattr(second, field.name)
        np.testing.assert_array_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None), field.name


def test_a_file_of_samples_gives_them_back_token_by_token(tmp_path: Path):
    record(tmp_path)
    for step in (1, 2):
        for request, read in zip(requests(12), read_samples(samples_path(tmp_path, step)), strict=True):
            assert_equal(read, sampled(request, step - 1))


def test_the_same_requests_get_the_recorded_samples_of_their_step(tmp_path: Path):
    record(tmp_path)
    replay = engine(tmp_path)
    for version in (0, 1):
        replay.update_weights([], version)
        asked = requests(12)[::2]  # an engine's share of the step
        for request, sample in zip(asked, generate(replay, asked), strict=True):
            assert_equal(sample, sampled(request, version))


def test_weights_are_taken_to_the_last_one_because_making_them_may_be_collective(tmp_path: Path):
    record(tmp_path)
    made: list[int] = []
    engine(tmp_path).update_weights((made.append(n) or (f"w{n}", None) for n in range(3)), 1)  # type: ignore
    assert made == [0, 1, 2]


def test_a_paused_engine_keeps_its_requests_and_an_aborted_one_comes_back_empty(tmp_path: Path):
    record(tmp_path)
    replay = engine(tmp_path)
    replay.submit(requests(4))
    replay.pause()
    assert replay.collect() == []
    (aborted,) = replay.abort([2])
    assert (aborted.finish_reason, len(aborted.response_ids)) == ("abort", 0)
    replay.resume()
    assert [sample.sample_id for sample in replay.collect()] == [0, 1, 3]
    assert replay.collect() == []


@pytest.mark.parametrize(
    ("version", "change", "message"),
    [
        (0, {"sample_id": 99}, "request 99 of step 1 was not recorded in .*, which has 12 samples of that step"),
        (0, {"prompt_ids": np.array([5, 6], np.int32)}, r"has the prompt \[5, 6\], and the one recorded in"),
        (1, {"sampling": Sampling(1.0, 1)}, "request 1 of step 2 allows 1 tokens, and the response recorded in"),
        (0, {"sample_id": 0}, "sample_id 0 is already in flight"),
        (2, {}, r"samples of step 3 were asked for, and .*step_000003.parquet does not exist; .*sample_interval=1"),
    ],
)  # fmt: skip
def test_what_was_not_recorded_is_refused_and_none_of_its_batch_is_taken(
    tmp_path: Path, version: int, change: dict[str, object], message: str
):
    record(tmp_path)
    replay = engine(tmp_path, version)
    good, bad = requests(2)
    with pytest.raises(ValueError, match=message):
        replay.submit([good, dataclasses.replace(bad, **change)])
    assert replay.collect() == []


def test_a_sample_of_other_weights_is_refused(tmp_path: Path):
    record(tmp_path)
    samples_path(tmp_path, 2).replace(samples_path(tmp_path, 1))
    with pytest.raises(
        RequestError, match=r"is for weights of version 0, and the one recorded in .* version 1"
    ):
        engine(tmp_path).submit(requests(2))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run that replays what tmp_path/recorded holds."""
    base = make_config(tmp_path / "model", 2)
    base = base.model_copy(update={"trainer": base.trainer.model_copy(update={"total_steps": STEPS})})
    recorded = tmp_path / "recorded"
    record(recorded)
    (recorded / "config.yaml").write_text(dump(base))
    rollout = base.rollout.model_copy(update={"engine": "replay", "replay_from": recorded})
    return base.model_copy(update={"rollout": rollout})


def test_a_recording_of_the_same_requests_is_taken(config: Config):
    check_recording(config)


def test_every_key_that_makes_other_requests_is_named_with_both_values(config: Config):
    rollout = config.rollout.model_copy(update={"temperature": 0.5})
    trainer = config.trainer.model_copy(update={"seed": 7})
    with pytest.raises(RequestError) as caught:
        check_recording(config.model_copy(update={"rollout": rollout, "trainer": trainer}))
    assert "rollout.temperature: recorded with 0.8, found 0.5" in str(caught.value)
    assert "trainer.seed: recorded with 3, found 7" in str(caught.value)


def test_steps_that_were_not_recorded_are_named(config: Config, tmp_path: Path):
    samples_path(tmp_path / "recorded", 1).unlink()
    with pytest.raises(RequestError, match=r"no samples of step\(s\) 1 of 2; record .*sample_interval=1"):
        check_recording(config)


def test_files_without_tokens_are_named(config: Config, tmp_path: Path):
    path = samples_path(tmp_path / "recorded", 2)
    pq.write_table(pq.read_table(path).drop_columns(["response_ids", "response_mask"]), path)
    with pytest.raises(
        RequestError, match="lacks response_ids, response_mask, as files of earlier versions do"
    ):
        check_recording(config)


def test_a_directory_that_is_no_run_is_named(config: Config, tmp_path: Path):
    (tmp_path / "recorded" / "config.yaml").unlink()
    with pytest.raises(RequestError, match=r"holds no config\.yaml, so it is no run directory"):
        check_recording(config)
