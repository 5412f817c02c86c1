"""What must hold before a run may start, beyond its configuration: files, devices, libraries.

Everything here runs before Ray starts and before anything is written. All problems are found and told together.
"""

import os
from collections.abc import Callable
from pathlib import Path

import hal
from hal.launch import ray_start_arguments
from mindrl.checkpoint.directories import latest_checkpoint
from mindrl.checkpoint.torch_dist import read_directory
from mindrl.config.schema import Config
from mindrl.data.prompts import load_prompts
from mindrl.data.stop_tokens import stop_token_ids
from mindrl.errors import RequestError
from mindrl.models.kernel_facts import DTYPES, kernel_facts
from mindrl.planning.checks import check_trainable
from mindrl.planning.model import check_same_model
from mindrl.rewards import find
from mindrl.rollout.choose import check_engine_args, choose_engine
from mindrl.trainer.run_directory import RunDirectory
from mindrl.trainer.sinks import wandb_settings
from mindrl.weight_maps import Architecture, read_architecture


def check_request(config: Config, *, overwrite: bool) -> list[str]:
    """`RequestError` with every reason why this run can't start; returns notices worth a line each."""
    problems: list[str] = []

    def attempt(check: Callable[[], None]) -> bool:
        try:
            check()
        except (RequestError, hal.HalError) as error:
            problems.append(str(error))
            return False
        return True

    sources = [source.path for source in (*config.data.train, *config.data.eval)]
    directory = RunDirectory(config.trainer.output_dir)
    attempt(lambda: directory.check(overwrite=overwrite))
    attempt(
        lambda: directory.check_inputs(filter(None, (config.model.path, config.model.checkpoint, *sources)))
    )
    model_fits = attempt(lambda: _check_model(config))
    attempt(lambda: _check_initial_weights(config))
    for path in sources:
        attempt(lambda path=path: _check_prompts(path, config))
    for function in config.reward.functions:
        attempt(lambda name=function.name: _check_reward(name))
    attempt(lambda: _check_pass_through(config))
    attempt(lambda: _check_wandb(config))
    notices: list[str] = []
    attempt(lambda: notices.extend(_check_device(config)))
    if model_fits:
        attempt(lambda: _check_kernels(config))
    if problems:
        raise RequestError("\n".join(dict.fromkeys(problems)))  # several checks may meet the same problem
    return notices


def _check_model(config: Config) -> None:
    architecture = read_architecture(config.model.path)
    check_same_model(config, architecture)
    check_trainable(config, architecture)
    stop_token_ids(config.model.path)
    _check_tokenizer(config.model.path, architecture)


def _check_tokenizer(hf_dir: Path, architecture: Architecture) -> None:
    """Every token that the tokenizer can make needs a row in the embedding."""
    from mindrl.data.encoding import load_tokenizer

    try:
        tokenizer = load_tokenizer(hf_dir)
    except RequestError as error:
        raise RequestError(f"model.path: {error}. Put the model's tokenizer files there.") from error
    if len(tokenizer) > architecture.vocab_size:
        raise RequestError(
            f"model.path: the tokenizer in {hf_dir} has {len(tokenizer)} tokens, the model's embedding only "
            f"{architecture.vocab_size} rows (vocab_size in config.json). They belong to different models."
        )


def _check_initial_weights(config: Config) -> None:
    if config.model.checkpoint is not None:
        read_directory(latest_checkpoint(config.model.checkpoint))
    elif not any(config.model.path.glob("*.safetensors")):
        raise RequestError(
            f"model.path: {config.model.path} holds no .safetensors file, and model.checkpoint is not given, so there "
            "are no weights to start from. Set model.checkpoint to what `mindrl convert` wrote, or add the weights."
        )


def _check_prompts(path: Path, config: Config) -> None:
    load_prompts(path).check(tokenizer_dir=config.model.path, max_prompt_length=config.data.max_prompt_length)


def _check_reward(name: str) -> None:
    find(name)


def _check_pass_through(config: Config) -> None:
    """Names in the two sections that go to other libraries; those are imported only when there is one."""
    if config.actor.transformer_config:
        from mindrl.models.megatron.transformer_config import check_pass_through

        check_pass_through(config.actor.transformer_config)
    if config.rollout.engine_args:
        check_engine_args(config.rollout, hal.choose(config.hal.accelerator))


def _check_wandb(config: Config) -> None:
    wandb_settings(config.logging, os.environ)


def _check_device(config: Config) -> list[str]:
    accelerator = hal.choose(config.hal.accelerator)
    ray_start_arguments(accelerator, config.cluster.devices_per_node)  # are there that many?
    reason = accelerator.supports_dtype(DTYPES[config.actor.dtype])
    if reason is not None:
        raise RequestError(f"actor.dtype: {reason}")
    notice = choose_engine(config.rollout, accelerator).notice
    return [notice] if notice else []


def _check_kernels(config: Config) -> None:
    facts = kernel_facts(config.actor, read_architecture(config.model.path))
    hal.select(hal.choose(config.hal.accelerator), facts, config.hal.kernels)
