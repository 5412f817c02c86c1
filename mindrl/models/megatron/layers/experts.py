"""Experts of a mixture: their two products for all experts at once, and the router that chooses among them."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.router import TopKRouter

from hal import Selection

ROUTER_DTYPES = {None: None, "fp32": torch.float32, "fp64": torch.float64}


class Swiglu(MegatronModule):
    """Gated activation on the halves of the first product of a feed-forward layer."""

    def __init__(self, config: TransformerConfig, selection: Selection) -> None:
        super().__init__(config)
        self._kernel = selection.swiglu

    def forward(self, intermediate: torch.Tensor) -> torch.Tensor:
        """[..., 2 * features] -> [..., features]"""
        return self._kernel(intermediate)


class GroupedLinear(torch.nn.Module):
    """One product for all experts of this rank: `weight` is [experts, out, in], cut over the experts' tensor-parallel
    ranks by outputs or by inputs. The token dispatcher does all communication.

    Checkpoints hold one tensor for the experts of all ranks, [experts, out, in], as they do where each expert is a
    module of its own."""

    def __init__(
        self,
        num_experts: int,
        in_features: int,
        out_features: int,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        selection: Selection,
        cut: Literal["outputs", "inputs"],
        **_: Any,
    ) -> None:
        super().__init__()
        assert not config.add_bias_linear
        self._groups = pg_collection
        self._kernel = selection.grouped_matmul
        self._cut_axis = 0 if cut == "outputs" else 1
        # Gate and up share the first product: each is cut by itself, and they are apart in checkpoints.
        self._pieces = 2 if cut == "outputs" and config.gated_linear_unit else 1
        size = pg_collection.expt_tp.size()
        shape = [out_features, in_features]
        shape[self._cut_axis] //= size
        self.weight = torch.nn.Parameter(torch.empty(num_experts, *shape, dtype=config.params_dtype))
        # Ranks with other experts are no replicas: gradients are added up among those with the same ones.
        self.weight.allreduce = config.expert_model_parallel_size == 1  # type: ignore[attr-defined]
        # Also where they are not cut: ranks that share everything else hold other experts, or other parts of the
        # optimizer's state, and the gradient norm counts what has no mark on one of them only.
        set_tensor_model_parallel_attributes(
            self.weight, is_parallel=True, dim=1 + self._cut_axis, stride=self._pieces
        )

    def forward(self, rows: torch.Tensor, rows_per_expert: list[int]) -> tuple[torch.Tensor, None]:
        """rows [rows, in] sorted by expert -> [rows, out], and no bias."""
        counts = torch.tensor(rows_per_expert, dtype=torch.int64)
        return self._kernel(rows, self.weight.transpose(1, 2), counts), None

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The weight as a tensor an expert (or two: gate and up), each at its place among all experts."""
        del metadata
        groups, axis = self._groups, len(sharded_offsets)
        experts_here, experts = len(self.weight), len(self.weight) * groups.ep.size()
        first = groups.ep.rank() * experts_here
        cuts, cut = groups.expt_tp.size(), groups.expt_tp.rank()

        def split(key: str, weight: torch.Tensor, replica_id: Any, _: Any) -> list[ShardedTensor]:
            return [
                ShardedTensor.from_rank_offsets(
                    key,
                    piece,
                    *sharded_offsets,
                    (axis, first + number, experts),
                    (axis + 1 + self._cut_axis, place * cuts + cut, cuts * self._pieces),
                    replica_id=replica_id,
                    prepend_axis_num=axis + 1,
                )
                for number, expert in enumerate(weight)
                for place, piece in enumerate(expert.chunk(self._pieces))
            ]

        def join(pieces: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat(pieces).view(self.weight.shape)

        replica_id = (0, 0, groups.expt_dp.rank())
        name = f"{prefix}weight"
        return {name: ShardedTensorFactory(name, self.weight, split, join, replica_id)}


class Router(TopKRouter):
    """Megatron's, but for the product: its own names a function that exists with TransformerEngine only."""

    def gating(self, input: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] -> logits [..., experts], in `moe_router_dtype`."""
        dtype = ROUTER_DTYPES[self.config.moe_router_dtype] or input.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(input.to(dtype), self.weight.to(dtype), bias)
