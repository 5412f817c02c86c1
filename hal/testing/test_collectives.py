"""Two ranks talk over the accelerator's communication backend."""

from collections.abc import Mapping
from pathlib import Path

import pytest

import hal
from hal.testing import collective_checks
from hal.testing.ranks import RankError, run_on_ranks

Outcomes = list[dict[str, str | None]]


def require_two_devices(accelerator: hal.Accelerator) -> None:
    """Ranks share the host; of anything else, each needs one."""
    if accelerator.device_type != "cpu" and accelerator.device_count() < 2:
        pytest.skip(f"two ranks need two devices, and this process sees one {accelerator.name}")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcomes]:
    """By accelerator: all checks run in one pair of processes, whose start takes longer than all of them."""
    return {}


@pytest.mark.parametrize("check", collective_checks.CHECKS)
def test_two_ranks(
    accelerator: hal.Accelerator,
    check: str,
    outcomes: dict[str, Outcomes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    require_two_devices(accelerator)
    if accelerator.name not in outcomes:
        folder = tmp_path_factory.mktemp("ranks")
        outcomes[accelerator.name] = run_on_ranks(
            collective_checks.run_all, 2, folder, accelerator.name, accelerator=accelerator.name
        )
    for rank, outcome in enumerate(outcomes[accelerator.name]):
        assert check in outcome, f"not run on rank {rank}: an earlier check failed there"
        assert outcome[check] is None, f"rank {rank}: {outcome[check]}"


def test_every_check_is_listed() -> None:
    written: Mapping[str, object] = vars(collective_checks)
    functions = {
        name
        for name, item in written.items()
        if callable(item) and getattr(item, "__module__", "") == collective_checks.__name__
    }
    assert functions == {*collective_checks.CHECKS, "run_all", "never_alone"}


def test_a_rank_that_waits_in_vain_ends_with_an_error(accelerator: hal.Accelerator, tmp_path: Path) -> None:
    """It raises, or its backend ends it: either way nobody waits for ever."""
    require_two_devices(accelerator)
    with pytest.raises(RankError, match="rank 0"):
        run_on_ranks(
            collective_checks.never_alone,
            2,
            tmp_path,
            accelerator.name,
            accelerator=accelerator.name,
            timeout_seconds=5,
            seconds=120,
        )


def test_a_rank_that_never_comes_is_an_error_within_the_time_limit(
    accelerator: hal.Accelerator, tmp_path: Path
) -> None:
    with pytest.raises(hal.CommunicationError, match=r"rank 0 of 2 over .* within 1 s"):
        hal.communication.initialize(
            accelerator, rank=0, world_size=2, init_method=f"file://{tmp_path}/meeting", timeout_seconds=1
        )


def test_a_second_group_is_refused_with_the_first(accelerator: hal.Accelerator, tmp_path: Path) -> None:
    first = {"rank": 0, "world_size": 1, "timeout_seconds": 60}
    hal.communication.initialize(accelerator, init_method=f"file://{tmp_path}/meeting", **first)
    try:
        with pytest.raises(hal.CommunicationError, match="this process is rank 0 of 1"):
            hal.communication.initialize(accelerator, init_method=f"file://{tmp_path}/other", **first)
    finally:
        hal.communication.destroy()
