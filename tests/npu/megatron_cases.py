"""What two ranks on virtual NPUs compute with Megatron-core, one case after the other in the same processes: starting
them takes longer than all cases."""

import traceback
from collections.abc import Callable
from pathlib import Path

from mindrl.models.megatron import destroy_parallel, patches
from mindrl.models.megatron.patches.rng_state import SET_RNG_STATE
from tests.models import dense_parity, expert_parity
from tests.models.expert_models import Layout

FAMILY = "qwen3-untied"
EXPERT_KINDS = ("qwen3-moe", "deepseek-v3")


def write_oracles(root: Path) -> None:
    """Models, and what the CPU makes of them by transformers, autograd and torch's AdamW."""
    dense_parity.save_model_and_oracle(root, FAMILY)
    expert_parity.save_oracles(root)


def cases(root: Path) -> dict[str, Callable[[], float]]:
    """Each compares with the oracle by itself and returns the worst gradient's error."""
    dense, checkpoint = root / FAMILY, root / "checkpoint"

    def tensor_parallel_then_data_parallel() -> float:
        dense_parity.one_step_and_save(dense, 2, 2, "npu", checkpoint)
        destroy_parallel()
        return dense_parity.two_steps(dense, 2, 1, 1, False, "npu", resume=checkpoint)

    found: dict[str, Callable[[], float]] = {
        "tensor parallel 2": lambda: dense_parity.two_steps(dense, 2, 2, 1, False, "npu"),
        "tensor and sequence parallel 2": lambda: dense_parity.two_steps(dense, 2, 2, 1, True, "npu"),
        "pipeline parallel 2": lambda: dense_parity.two_steps(dense, 2, 1, 2, False, "npu"),
        "data parallel 2": lambda: dense_parity.two_steps(dense, 2, 1, 1, False, "npu"),
        "checkpoint of tensor parallel 2 in one of 1": tensor_parallel_then_data_parallel,
    }
    for kind in EXPERT_KINDS:
        for name, layout in (
            ("expert parallel 2", Layout(expert=2)),
            ("tensor and sequence parallel 2", Layout(tensor=2, expert_tensor=2)),
            ("context parallel 2", Layout(context=2)),
        ):
            found[f"{kind}, {name}"] = lambda k=kind, to=layout: expert_parity.one_step(root, k, to, "npu")
        found[f"{kind}, packed"] = lambda k=kind: expert_parity.packed_and_alone(
            k, Layout(tensor=2, expert=2), "npu"
        )
        found[f"{kind}, recomputed with dropout"] = lambda k=kind: expert_parity.recompute_error(
            root, k, "npu"
        )
    return found


def recomputed_without_the_random_state_patch(root: Path) -> float:
    """To be called before anything applies that patch in this process."""
    ledger = patches.LEDGER
    patches.LEDGER = tuple(patch for patch in ledger if patch is not SET_RNG_STATE)
    try:
        return expert_parity.recompute_error(root, "qwen3-moe", "npu")
    finally:
        patches.LEDGER = ledger


UNPATCHED = "recomputed without the random state patch"


def run_cases(rank: int, world_size: int, root: Path) -> dict[str, float | str]:
    """By case: the error, or the traceback of the first one that failed; the ones after that are not run."""
    del rank, world_size
    outcomes: dict[str, float | str] = {}
    unpatched = {UNPATCHED: lambda: recomputed_without_the_random_state_patch(root)}
    for name, case in (unpatched | cases(root)).items():
        try:
            outcomes[name] = case()
        except BaseException:  # noqa: BLE001  the test of this case shows it
            outcomes[name] = traceback.format_exc()
            break
        destroy_parallel()
    return outcomes
