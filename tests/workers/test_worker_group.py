import errno
import os
import time
from pathlib import Path

import pytest
import ray

from mindrl.errors import RequestError
from mindrl.workers.group import WorkerError, WorkerGroup


class Worker:
    """Does one of the things that workers do wrong."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def double(self, value: int) -> int:
        return 2 * value + self.rank

    def fail_on(self, rank: int) -> None:
        if self.rank == rank:
            raise ValueError("no such luck")
        time.sleep(60)  # as one who waits for the failed one in a collective

    def refuse(self) -> None:
        raise RequestError("can't be")

    def fill_the_disk(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/where")

    def vanish(self) -> None:
        os._exit(1)


@pytest.fixture(scope="module")
def cluster():
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=80 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def group(cluster):
    made = WorkerGroup([ray.remote(Worker).options(num_cpus=0).remote(rank) for rank in range(2)], 20)
    made.call("double", 1)
    yield made
    made.kill()


def test_results_come_in_order_of_rank(group):
    assert group.call("double", 10) == [20, 21]
    assert group.call_each("double", [(1,), (2,)]) == [2, 5]


def test_one_failing_worker_ends_the_call_for_all_and_is_named(group):
    start = time.monotonic()
    with pytest.raises(WorkerError, match="fail_on failed on worker 1: ValueError: no such luck"):
        group.call("fail_on", 1)
    assert time.monotonic() - start < 15  # did not wait for the other worker


def test_a_refusal_inside_a_worker_stays_a_refusal(group):
    with pytest.raises(RequestError, match="can't be"):
        group.call("refuse")


def test_what_a_disk_said_to_a_worker_is_told_as_it_is(group):
    with pytest.raises(OSError, match="No space left on device: '/some/where'") as found:
        group.call("fill_the_disk")
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, "/some/where")


def test_a_process_that_vanishes_is_named(group):
    with pytest.raises(WorkerError, match=r"vanish: worker \d's process ended"):
        group.call("vanish")


@pytest.mark.usefixtures("cluster")
def test_a_call_has_a_time_limit_and_says_whom_it_waited_for():
    made = WorkerGroup([ray.remote(Worker).options(num_cpus=0).remote(rank) for rank in range(2)], 0.5)
    with pytest.raises(WorkerError, match=r"fail_on: no answer from worker\(s\) \[0, 1\] of 2 within 0.5 s"):
        made.call("fail_on", 7)
    made.kill()


@pytest.mark.usefixtures("cluster")
def test_messages_call_a_worker_by_its_name():
    made = WorkerGroup([ray.remote(Worker).options(num_cpus=0).remote(0)], 20, "reward worker")
    with pytest.raises(WorkerError, match="fail_on failed on reward worker 0: ValueError"):
        made.call("fail_on", 0)
    made.kill()
