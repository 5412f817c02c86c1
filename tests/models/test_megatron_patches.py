"""Every patch of Megatron-core is needed, and nothing that talks to a device is left uncovered."""

import inspect
import sys
from pathlib import Path

import pytest
import torch
from device_calls import DeviceCall, device_calls
from distributed import run_distributed
from megatron.core.tensor_parallel import get_cuda_rng_tracker, model_parallel_cuda_manual_seed
from megatron_setup import full_gradients, make_backend
from oracle import worst_error
from tiny_models import make_config, make_mini_batch, make_samples, save_tiny_model

from mindrl.models.megatron import patches
from mindrl.models.megatron.patches import LEDGER
from mindrl.models.megatron.patches.context_positions import CONTEXT_POSITIONS
from mindrl.models.megatron.patches.optimizer_shards import OPTIMIZER_SHARDS
from mindrl.models.megatron.patches.rng_state import SET_RNG_STATE
from mindrl.models.megatron.patches.te_linear import TE_LINEAR
from tests.models.expert_models import Layout, MegatronModel, token_rows

TESTED = {SET_RNG_STATE, OPTIMIZER_SHARDS, TE_LINEAR, CONTEXT_POSITIONS}

NOT_REACHED = {
    "distributed.fsdp": "FSDP is not used; DistributedDataParallel is",
    "distributed.torch_fully_sharded_data_parallel": "FSDP is not used; DistributedDataParallel is",
    "distributed.param_and_grad_buffer._ParamAndGradBuffer.offload_to_cpu": "mindrl.models.megatron.offload moves memory",
    "inference": "generation is a rollout engine's",
    "models.common.language_module.language_module.LanguageModule.setup_embeddings_and_output_layer": (
        "PolicyModel overrides it"
    ),
    "nccl_allocator": "buffers registered with one communication library are off (nccl_ub)",
    "optimizer.clip_grads.clip_grad_by_total_norm_fp32": "mindrl.models.megatron.optimizer.step clips",
    "optimizer.cpu_offloading": "HybridDeviceOptimizer is off (optimizer_cpu_offload)",
    "optimizer.distrib_optimizer.DistributedOptimizer.__init__": (
        "sets `main_param`, which OPTIMIZER_SHARDS does too, and which nothing here reads"
    ),
    "optimizer.distrib_optimizer.DistributedOptimizer.get_parameter_state_dp_zero": (
        "an old checkpoint format; ours is fully_reshardable"
    ),
    "optimizer.grad_scaler": "loss scaling is for float16, which is refused",
    "optimizer.optimizer.MegatronOptimizer.offload_to_cpu": "mindrl.models.megatron.offload moves memory",
    "optimizer.optimizer.MegatronOptimizer.restore_from_cpu": "mindrl.models.megatron.offload moves memory",
    "optimizer.optimizer.Float16OptimizerWithFloat16Params": "the optimizer is always the distributed one",
    "pipeline_parallel.fine_grained_activation_offload": "refused in actor.transformer_config",
    "pipeline_parallel.utils.set_streams": "for expert-parallel overlap, refused in actor.transformer_config",
    "tensor_parallel.data.broadcast_data": "every rank of a model copy gets the samples itself",
    "tensor_parallel.layers": "two decorators that act under autocast only, refused in actor.transformer_config",
    "tensor_parallel.random": "imports and a default argument of helpers that are patched or redirected",
    "tensor_parallel.random.CudaRNGStatesTracker.__init__": "captured graphs are refused in actor.transformer_config",
    "transformer.cuda_graphs": "captured graphs are refused in actor.transformer_config",
    "transformer.fsdp_dtensor_checkpoint": "FSDP is not used",
    "transformer.moe.moe_utils.maybe_move_tensor_to_cpu": "the token dispatcher of ours brings counts to the host itself",
    "transformer.transformer_config.TransformerConfig.__post_init__": (
        "a setting of torch's matrix products on one vendor's device, without effect elsewhere"
    ),
    "utils.GlobalSymmetricMemoryBuffer": "a buffer of generation",
    "utils.check_param_hashes_across_dp_replicas": "nothing here calls it",
    "utils.StragglerDetector": "nothing here starts it",
}
"""Device calls that stay as they are, by module or function below `megatron.core`, and why they are never executed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3-untied")


def recompute_error(directory: Path) -> float:
    """How far gradients with dropout move when activations are recomputed."""
    dropout = {"hidden_dropout": 0.2, "attention_dropout": 0.1}
    gradients: list[dict[str, torch.Tensor]] = []
    for recompute in (
        {},
        {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
    ):
        config = make_config(directory, 1, transformer_config={**dropout, **recompute})
        backend, _, _ = make_backend(config)
        backend.load_hf(directory)
        model_parallel_cuda_manual_seed(5)
        backend.accumulate_gradients(make_mini_batch(make_samples(4)))
        gradients.append(full_gradients(backend))
    return worst_error(gradients[1], gradients[0])[0]


def test_recomputed_activations_get_the_same_dropout(model: Path) -> None:
    assert run_distributed(recompute_error, 1, model) == [0.0]


def numbers_after_a_fork(directory: Path, patched: bool) -> tuple[bool, bool]:
    """Whether a forked random region leaves the stream around it alone, and has the stream of its own seed."""
    patches.LEDGER = tuple(patch for patch in LEDGER if patched or patch is not SET_RNG_STATE)
    make_backend(make_config(directory, 1))
    expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
    own = torch.rand(3, generator=torch.Generator().manual_seed(6))
    tracker = get_cuda_rng_tracker()
    tracker.add("test", 6)
    torch.manual_seed(5)
    with tracker.fork("test"):
        inside = torch.rand(3)
    return torch.equal(torch.rand(3), expected), torch.equal(inside, own)


def test_a_forked_random_region_has_its_own_stream_and_leaves_the_other_alone(model: Path) -> None:
    assert run_distributed(numbers_after_a_fork, 1, model, True) == [(True, True)]


def test_without_the_random_state_patch_forked_regions_run_into_each_other(model: Path) -> None:
    [without] = run_distributed(numbers_after_a_fork, 1, model, False)
    assert without != (True, True), (
        "Megatron-core sets random state on this device by itself: the patch can go"
    )


def build_without_optimizer_patch(directory: Path) -> str:
    patches.LEDGER = tuple(patch for patch in LEDGER if patch is not OPTIMIZER_SHARDS)
    try:
        make_backend(make_config(directory, 1))
    except TypeError as error:
        return str(error)
    return ""


def test_without_the_optimizer_patch_parameters_of_this_device_are_refused(model: Path) -> None:
    [refusal] = run_distributed(build_without_optimizer_patch, 1, model)
    assert "Wrapped parameters must be one of" in refusal, "the patch can go"


def pass_without(function: str, kind: str, layout: Layout) -> str:
    """The error of a forward and backward pass without the ledger's entry for a function."""
    patches.LEDGER = tuple(patch for patch in LEDGER if patch.function != function)
    assert len(patches.LEDGER) == len(LEDGER) - 1
    try:
        MegatronModel(kind, layout).loss_and_gradients(token_rows())
    except (AssertionError, RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_without_the_patch_of_a_missing_class_latent_attention_can_not_be_built() -> None:
    [refusal] = run_distributed(pass_without, 1, TE_LINEAR.function, "deepseek-v3", Layout())
    assert "TypeError: isinstance() arg 2 must be a type" in refusal, "the patch can go"


def test_without_the_patch_of_positions_context_parallelism_needs_another_device() -> None:
    asked = CONTEXT_POSITIONS.function, "qwen3-moe", Layout(context=2)
    for refusal in run_distributed(pass_without, 2, *asked):
        assert "pin" in refusal or "CUDA" in refusal, f"the patch can go: {refusal}"


def test_every_entry_of_the_ledger_is_tested_here_and_names_an_existing_function() -> None:
    assert set(LEDGER) == TESTED
    for patch in LEDGER:
        assert patch.why
        assert patch.until
        owner = sys.modules[patch.module]
        assert patch.function.rpartition(".")[2] in inspect.getsource(owner)


def uncovered_and_stale() -> tuple[list[DeviceCall], set[str]]:
    """Device calls of the Megatron modules that the backend imports, and entries of NOT_REACHED that match none."""
    patched = {f"{patch.module}.{patch.function}" for patch in LEDGER}
    used: set[str] = set()
    uncovered: list[DeviceCall] = []
    for module in [
        module for name, module in sorted(sys.modules.items()) if name.startswith("megatron.core.")
    ]:
        for call in device_calls(module) if module.__file__ else ():
            place = f"{call.module}.{call.function}".rstrip(".")
            known = [key for key in NOT_REACHED if f"{place}.".startswith(f"megatron.core.{key}.")]
            used.update(known)
            if place not in patched and not known:
                uncovered.append(call)
    return uncovered, set(NOT_REACHED) - used


def test_every_device_call_in_megatron_is_redirected_patched_or_known_to_be_unreached() -> None:
    assert run_distributed(uncovered_and_stale, 1) == [([], set())]


def test_after_a_step_no_megatron_module_holds_torch_itself(model: Path) -> None:
    assert run_distributed(modules_left_out, 1, model) == [[]]


def modules_left_out(directory: Path) -> list[str]:
    backend, _, _ = make_backend(make_config(directory, 1))
    backend.load_hf(directory)
    backend.accumulate_gradients(make_mini_batch(make_samples(2)))
    backend.apply_gradients(0.001)
    return [
        name
        for name, module in sys.modules.items()
        if name.startswith("megatron.") and vars(module).get("torch") is torch
    ]
