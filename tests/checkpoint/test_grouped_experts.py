"""Megatron-core's `GroupedMLP`: all experts of a rank in two matrices, whose transposes are what other modules hold."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.moe import experts as megatron_experts

import hal
from mindrl.checkpoint.byte_plan import Record
from mindrl.checkpoint.conversion.copying import SourceFiles, pieces
from mindrl.checkpoint.saved_weights import SavedWeights, open_checkpoint
from mindrl.checkpoint.training import InProcessSave
from mindrl.models.megatron.device import prepare
from mindrl.weight_maps import TensorRule, read_architecture, weight_map
from tests.checkpoint.hf_models import tensors_of, write_model
from tests.distributed import run_distributed

HOME = "decoder.layers.0.mlp.experts."
EXPERTS, WIDTH, HIDDEN = 4, 24, 32


def full_matrices(hf: Path) -> dict[str, torch.Tensor]:
    """Experts' matrices of the model, [outputs, inputs], by Megatron's names."""
    tensors = tensors_of(hf)
    return {
        rule.megatron_name: rule.merge([tensors[source.name] for source in rule.hf])
        for rule in expert_rules(hf)
    }


def expert_rules(hf: Path) -> list[TensorRule]:
    return [rule for rule in weight_map(read_architecture(hf)).rules if rule.expert is not None]


def save(hf: Path, folder: Path, expert_size: int) -> None:
    """Megatron's module with this model's experts, as `torch_dist` in two ways, and as a file for each rank."""
    from megatron.core import parallel_state

    prepare(hal.choose("cpu"))
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=2 // expert_size,
        expert_model_parallel_size=expert_size,
        expert_tensor_parallel_size=2 // expert_size,
        create_gloo_process_groups=False,
    )
    tensor, expert = (
        parallel_state.get_expert_tensor_parallel_rank(), parallel_state.get_expert_model_parallel_rank()
    )  # fmt: skip
    config = TransformerConfig(
        num_layers=1, hidden_size=HIDDEN, ffn_hidden_size=48, num_attention_heads=4, num_moe_experts=EXPERTS,
        moe_ffn_hidden_size=WIDTH, gated_linear_unit=True, activation_func=torch.nn.functional.silu,
        add_bias_linear=False, use_cpu_initialization=True, moe_grouped_gemm=True,
        tensor_model_parallel_size=2 // expert_size, sequence_parallel=expert_size == 1,
        expert_model_parallel_size=expert_size, expert_tensor_parallel_size=2 // expert_size,
    )  # fmt: skip
    with patch.object(
        megatron_experts.gg, "assert_grouped_gemm_is_available"
    ):  # the kernel, which is not needed
        module = megatron_experts.GroupedMLP(
            EXPERTS // expert_size, config, ProcessGroupCollection.use_mpu_process_groups()
        )
    full = full_matrices(hf)
    rules = {rule.megatron_name: rule for rule in expert_rules(hf)}
    here = range(expert * EXPERTS // expert_size, (expert + 1) * EXPERTS // expert_size)

    def parts(matrix: str) -> torch.Tensor:
        names = [f"{HOME}{number}.{matrix}.weight" for number in here]
        return torch.stack([rules[name].shard(full[name], tensor, 2 // expert_size).T for name in names])

    with torch.no_grad():
        module.weight1.copy_(parts("linear_fc1").view(HIDDEN, -1))
        module.weight2.copy_(parts("linear_fc2").view(-1, HIDDEN))
    for way, metadata in {"grouped": {}, "single": {"singleton_local_shards": True}}.items():
        state = module.sharded_state_dict(prefix=HOME, metadata=metadata)
        if torch.distributed.get_rank() == 0:
            (folder / way).mkdir()
        torch.distributed.barrier()
        dist_checkpointing.save(state, str(folder / way), InProcessSave())
    name = f"mp_rank_{0 if expert_size == 2 else tensor:02d}" + (f"_{expert:03d}" if expert_size == 2 else "")
    weights = {f"{HOME}{name}": weight for name, weight in module.state_dict().items()}
    weights["decoder.final_layernorm.weight"] = torch.ones(HIDDEN)
    (folder / "ranks" / name).mkdir(parents=True)
    torch.save(
        {"model": weights, "checkpoint_version": 3.0, "iteration": 1},
        folder / "ranks" / name / "model_optim_rng.pt",
    )


def values(saved: SavedWeights, rule: TensorRule) -> torch.Tensor:
    """The matrix that the tiles make up."""
    record = Record(rule.megatron_name, 0, *rule.megatron_shape, "float32", tuple(saved.tiles(rule)))
    sources = SourceFiles()
    try:
        rows = [torch.from_numpy(piece.copy()).view(torch.float32) for _, piece in pieces(record, sources)]
    finally:
        sources.close()
    return torch.cat(rows)


@pytest.mark.parametrize("expert_size", [1, 2], ids=["tensor parallel", "expert parallel"])
def test_each_experts_matrices_are_found_in_what_the_module_saves(tmp_path: Path, expert_size: int):
    hf = write_model(tmp_path / "hf", "qwen3_moe", tied=True, num_hidden_layers=1)
    run_distributed(save, 2, hf, tmp_path, expert_size, timeout=100)
    expected = full_matrices(hf)
    for way in ("grouped", "single", "ranks"):
        with open_checkpoint(tmp_path / way) as saved:
            for rule in expert_rules(hf):
                key = rule.checkpoint_key.replace("decoder.layers.", "decoder.layers.0.")
                found = values(saved, replace(rule, checkpoint_key=key, stacked_at=rule.stacked_at[1:]))
                assert torch.equal(found, expected[rule.megatron_name]), (way, rule.megatron_name)
