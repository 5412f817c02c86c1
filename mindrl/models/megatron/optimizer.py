"""Gradient buffers and the sharded AdamW of a trainable model."""

import math

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import (
    ChainedOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
    get_standard_config_overrides,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig

from hal.kernels.adamw import Adamw
from mindrl.config.actor import OptimizerConfig as AdamWConfig
from mindrl.models.megatron.adamw import KernelAdamW
from mindrl.models.megatron.model import PolicyModel


def data_parallel(transformer: TransformerConfig, model: PolicyModel) -> DistributedDataParallel:
    """The model with float32 gradient buffers, added up (not averaged) over data-parallel ranks."""
    transformer.finalize_model_grads_func = _finalize
    buffers = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    return DistributedDataParallel(transformer, buffers, model)


def _finalize(
    models: list[torch.nn.Module],
    num_tokens: torch.Tensor | None = None,
    pg_collection: ProcessGroupCollection | None = None,
    force_all_reduce: bool = False,
) -> None:
    """Megatron's own, except that nothing is divided by tokens: the objective's weights carry all normalisation."""
    del num_tokens
    finalize_model_grads(models, None, pg_collection=pg_collection, force_all_reduce=force_all_reduce)


def build_optimizer(
    model: DistributedDataParallel, transformer: TransformerConfig, adamw: AdamWConfig, kernel: Adamw
) -> ChainedOptimizer:
    """AdamW by `kernel`, its state spread over data-parallel ranks; no weight decay on norms and biases."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=adamw.lr,
        min_lr=0.0,
        weight_decay=adamw.weight_decay,
        adam_beta1=adamw.betas[0],
        adam_beta2=adamw.betas[1],
        adam_eps=adamw.eps,
        clip_grad=0.0,  # `step` clips
        params_dtype=transformer.params_dtype,
        bf16=transformer.bf16,
        use_distributed_optimizer=True,
    )
    optimizer = get_megatron_optimizer(
        config,
        [model],
        config_overrides=get_standard_config_overrides(config),
        use_gloo_process_groups=False,
    )
    for group in optimizer.param_groups:
        group["weight_decay"] = adamw.weight_decay * group["wd_mult"]
    # Megatron takes torch's, TransformerEngine's or Apex's, by what is installed; nothing has its state yet.
    for chained in optimizer.chained_optimizers:
        chained.optimizer = KernelAdamW(
            chained.optimizer.param_groups, kernel, betas=adamw.betas, eps=adamw.eps
        )
    return optimizer


@torch.no_grad()
def step(optimizer: ChainedOptimizer, lr: float, clip_grad: float) -> float:
    """Clip and apply the accumulated gradients; returns their global norm before clipping.

    Raises FloatingPointError, with weights and optimizer state as they were, if that norm is not finite."""
    optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    if not math.isfinite(grad_norm):
        raise FloatingPointError(
            f"the global gradient norm is {grad_norm}; the step was not taken and the weights are unchanged. Lower "
            "actor.optimizer.lr, or look at the log-probs and advantages of this mini-batch"
        )
    scale = clip_grad / (grad_norm + 1e-6)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if scale < 1.0:
            for param in group["params"]:
                param.grad.mul_(scale)
    optimizer.step_with_ready_grads()
    return grad_norm
