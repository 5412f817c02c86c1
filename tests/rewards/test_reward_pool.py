"""The pool scores like the functions do, and survives those that hang or crash."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mindrl.errors import RequestError
from mindrl.rewards import RewardItem, RewardPool

MISBEHAVE = "awkward_rewards:misbehave"


def items(*responses: str) -> list[RewardItem]:
    return [RewardItem(response=response, ground_truth="right") for response in responses]


@pytest.fixture(autouse=True)
def _find_awkward_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def pool() -> Iterator[RewardPool]:
    with RewardPool([(MISBEHAVE, 1.0)], timeout_seconds=2.0) as pool:
        yield pool


def test_outcomes_come_in_the_order_of_the_items_from_any_number_of_processes():
    responses = ["right" if i % 3 else "wrong" for i in range(50)]
    with RewardPool([("exact_match", 1.0)], timeout_seconds=60.0, workers=2) as pool:
        outcomes = pool.score(items(*responses))
    assert [outcome.score for outcome in outcomes] == [float(bool(i % 3)) for i in range(50)]
    assert not any(outcome.timed_out or outcome.crashed for outcome in outcomes)


def test_the_score_is_the_weighted_sum_and_each_function_is_reported():
    functions = [("exact_match", 2.0), ("boxed_format", 0.5), (MISBEHAVE, 0.0)]
    with RewardPool(functions, timeout_seconds=60.0) as pool:
        (outcome,) = pool.score(items("\\boxed{right}"))
    assert outcome.score == 2.5
    assert outcome.by_function == {"exact_match": 1.0, "boxed_format": 1.0, MISBEHAVE: 0.0}
    assert outcome.reasons == {f"{MISBEHAVE}/length": 13.0}


def test_no_items_give_no_outcomes(pool: RewardPool):
    assert pool.score([]) == []


def test_a_hanging_response_loses_its_score_and_its_neighbours_keep_theirs(pool: RewardPool):
    outcomes = pool.score(items("right", "hang", "right", "wrong", "right"))
    assert [outcome.score for outcome in outcomes] == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert [outcome.timed_out for outcome in outcomes] == [False, True, False, False, False]
    assert pool.score(items("right"))[0].score == 1.0


def test_arithmetic_that_never_returns_is_killed_too():
    tower = RewardItem(response="\\boxed{9^{9^{9}}}", ground_truth="5")
    sound = RewardItem(response="\\boxed{\\frac12}", ground_truth="0.5")
    with RewardPool([("boxed_math", 1.0)], timeout_seconds=5.0) as pool:
        outcomes = pool.score([sound, tower, sound])
    assert [outcome.score for outcome in outcomes] == [1.0, 0.0, 1.0]
    assert [outcome.timed_out for outcome in outcomes] == [False, True, False]


@pytest.mark.parametrize("failure", ["exit", "raise", "nan", "hang"])
def test_a_failure_never_scores_above_a_wrong_answer(pool: RewardPool, failure: str):
    lost, penalised, right = pool.score(items(failure, "penalty", "right"))
    assert lost.crashed != lost.timed_out
    assert lost.timed_out == (failure == "hang")
    assert (lost.score, penalised.score, right.score) == (-1.0, -1.0, 1.0)
    assert lost.by_function == {MISBEHAVE: 0.0}


def test_a_process_that_died_while_idle_is_replaced_and_nothing_is_lost():
    with RewardPool([("awkward_rewards:process_id", 1.0)], timeout_seconds=30.0) as pool:
        first = int(pool.score(items("a"))[0].score)
        os.kill(first, signal.SIGKILL)
        while psutil.Process(first).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        (outcome,) = pool.score(items("b"))
    assert not outcome.crashed
    assert outcome.score not in (0.0, first)


def test_scoring_processes_do_not_import_torch():
    with RewardPool([("awkward_rewards:imports_torch", 1.0)], timeout_seconds=30.0) as pool:
        assert pool.score(items("a"))[0].score == 0.0


def test_close_leaves_no_process():
    with RewardPool([("awkward_rewards:process_id", 1.0)], timeout_seconds=30.0) as pool:
        pid = int(pool.score(items("a"))[0].score)
    assert not psutil.pid_exists(pid)


def test_processes_die_with_a_killed_parent_even_while_they_hang(tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(
        "from mindrl.rewards import RewardItem, RewardPool\n"
        "pool = RewardPool([('awkward_rewards:process_id', 1.0), ('awkward_rewards:misbehave', 0.0)],\n"
        "                  timeout_seconds=600.0)\n"
        "print(int(pool.score([RewardItem('a', 'b')])[0].score), flush=True)\n"
        "pool.score([RewardItem('hang', 'b')])\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=env
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, _ = psutil.wait_procs([worker], timeout=20)
    assert gone or worker.status() == psutil.STATUS_ZOMBIE


def test_unknown_and_repeated_functions_are_refused_before_anything_starts():
    with pytest.raises(RequestError, match="did you mean exact_match"):
        RewardPool([("exact_mach", 1.0)], timeout_seconds=1.0)
    with pytest.raises(RequestError, match="each may be named once"):
        RewardPool([("exact_match", 1.0), ("exact_match", 0.5)], timeout_seconds=1.0)


def test_functions_that_only_the_parent_can_import_stop_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = tmp_path / "lost_module.py"
    module.write_text("from awkward_rewards import misbehave\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("lost_module")
    module.unlink()
    with (
        RewardPool([("lost_module:misbehave", 1.0)], timeout_seconds=1.0) as pool,
        pytest.raises(RuntimeError, match="ended before it was ready"),
    ):
        pool.score(items("right"))


def test_close_is_quick_and_may_come_before_the_processes_are_ready():
    pool = RewardPool([("boxed_math", 1.0)], timeout_seconds=1.0, workers=2)
    pool.close()
    pool.close()
