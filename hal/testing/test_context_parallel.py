"""Two ranks that hold halves of every sequence compute the attention of whole ones, with every kernel that serves."""

from pathlib import Path

import hal
from hal.testing import context_parallel_checks
from hal.testing.ranks import run_on_ranks
from hal.testing.test_collectives import require_two_devices


def test_two_ranks_together_compute_what_one_computes(accelerator: hal.Accelerator, tmp_path: Path) -> None:
    require_two_devices(accelerator)
    both = run_on_ranks(
        context_parallel_checks.run_all, 2, tmp_path, accelerator.name, accelerator=accelerator.name
    )
    assert both[0] == both[1]
    served = {label.split(",")[0] for label in both[0]}
    assert hal.select(accelerator, context_parallel_checks.FACTS).providers["attention"] in served
