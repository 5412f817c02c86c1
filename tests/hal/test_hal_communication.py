"""The process group is set up within a time limit, or not at all, with the reason; the rest is in hal.testing."""

import time
from pathlib import Path

import pytest
import torch.distributed as dist

import hal


def test_a_missing_rank_is_an_error_within_the_time_limit(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(
        hal.CommunicationError, match=r"rank 0 of 2 over gloo.*within 1 s.*GLOO_SOCKET_IFNAME"
    ):
        hal.communication.initialize(
            hal.choose("cpu"),
            rank=0,
            world_size=2,
            init_method=f"file://{tmp_path}/meeting",
            timeout_seconds=1,
        )
    assert time.monotonic() - start < 20
    assert not dist.is_initialized()


def test_a_rank_outside_the_world_is_refused_at_once() -> None:
    with pytest.raises(hal.CommunicationError, match="ranks run from 0 to 1"):
        hal.communication.initialize(
            hal.choose("cpu"), rank=2, world_size=2, init_method="tcp://localhost:1", timeout_seconds=1
        )


def test_leaving_without_a_group_is_fine() -> None:
    hal.communication.destroy()
