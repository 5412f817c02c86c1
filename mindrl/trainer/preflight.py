"""What must hold before a run may start, beyond what `paper_checks` has found: files, devices, libraries.

Everything here runs before Ray starts and before anything is written. All problems are found and told together.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil

import hal
from hal.launch import ray_start_arguments
from mindrl.checkpoint.companions import find_companions
from mindrl.checkpoint.directories import latest_checkpoint
from mindrl.checkpoint.expected import check_checkpoint, check_hf_weights
from mindrl.config.model import ModelConfig
from mindrl.config.schema import Config
from mindrl.data.prompts import load_prompts
from mindrl.data.stop_tokens import stop_token_ids
from mindrl.errors import RequestError
from mindrl.models.kernel_facts import DTYPES, kernel_facts
from mindrl.rewards import find
from mindrl.rollout.choose import check_engine_args, choose_engine
from mindrl.rollout.recording import check_recording
from mindrl.trainer.resume import check_resume
from mindrl.trainer.run_directory import RunDirectory
from mindrl.trainer.sinks import require_wandb_server, wandb_settings
from mindrl.weight_maps import Architecture, read_architecture, weight_map

WORKER_BYTES = 400 * 10**6
SCORER_BYTES = 20 * 10**6
"""Resident after the imports, rounded down: it was 500 and 30 MB on a CPU."""


def check_request(config: Config, *, overwrite: bool, resume: bool = False) -> list[str]:
    """`RequestError` with every reason why this run can't start, or go on; returns notices worth a line each."""
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
    inputs = [
        config.model.path,
        *filter(None, [config.model.checkpoint, config.rollout.replay_from]),
        *sources,
    ]
    notices: list[str] = []
    if resume:
        attempt(lambda: notices.extend(check_resume(config, directory)))
    else:
        attempt(lambda: directory.check(overwrite=overwrite))
        attempt(lambda: directory.check_inputs(inputs))
    architecture = read_architecture(config.model.path)
    if not problems:
        attempt(lambda: _check_room(config, architecture))
    attempt(lambda: _check_memory(config))
    attempt(lambda: _check_tokenizer(config.model.path, architecture))
    if config.has_reference or not resume:
        attempt(lambda: _check_initial_weights(config.model, architecture))
    for path in sources:
        attempt(lambda path=path: _check_prompts(path, config))
    for function in config.reward.functions:
        attempt(lambda name=function.name: _check_reward(name))
    attempt(lambda: check_recording(config))
    passed_through = attempt(lambda: _check_pass_through(config, architecture))
    attempt(lambda: _check_wandb(config))
    attempt(lambda: notices.extend(_check_device(config, architecture)))
    if passed_through:
        attempt(lambda: _check_kernels(config, architecture))
    if problems:
        raise RequestError("\n".join(dict.fromkeys(problems)))  # several checks may meet the same problem
    return notices


def _check_room(config: Config, architecture: Architecture) -> None:
    """The last step is always saved, so there must be room for it at least: weights, and AdamW's float32 state."""
    place = config.trainer.output_dir.absolute()
    while not place.exists():
        place = place.parent
    needed = weight_map(architecture).num_parameters * (DTYPES[config.actor.dtype].itemsize + 12)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RequestError(
            f"trainer.output_dir: {place} has {free / 1e9:.3g} GB free, and the checkpoint that ends the run "
            f"(weights and optimizer state) takes {needed / 1e9:.3g} GB; make room there, or name another directory"
        )


def _check_memory(config: Config) -> None:
    """Every process holds its libraries; a misprint must not take the machine down with it."""
    workers, scorers = config.cluster.devices_per_node, config.reward.workers
    needed = workers * WORKER_BYTES + scorers * SCORER_BYTES
    total = psutil.virtual_memory().total
    if needed > total:
        raise RequestError(
            f"cluster.devices_per_node, reward.workers: {workers} worker processes and {scorers} that score take "
            f"{needed / 1e9:.3g} GB for their libraries alone, and this machine has {total / 1e9:.3g} GB; ask for fewer"
        )


def _check_tokenizer(hf_dir: Path, architecture: Architecture) -> None:
    """Every token that the tokenizer can make needs a row in the embedding, and one of them ends responses."""
    from mindrl.data.encoding import load_tokenizer

    beyond = [token for token in stop_token_ids(hf_dir) if token >= architecture.vocab_size]
    if beyond:
        raise RequestError(
            f"model.path: eos_token_id {', '.join(map(str, beyond))} in {hf_dir} is no token of the model, whose vocab_size "
            f"is {architecture.vocab_size}, so no response could ever end; correct it in config.json or "
            "generation_config.json"
        )

    try:
        tokenizer = load_tokenizer(hf_dir)
    except RequestError as error:
        raise RequestError(f"model.path: {error}. Put the model's tokenizer files there.") from error
    if len(tokenizer) > architecture.vocab_size:
        raise RequestError(
            f"model.path: the tokenizer in {hf_dir} has {len(tokenizer)} tokens, the model's embedding only "
            f"{architecture.vocab_size} rows (vocab_size in config.json). They belong to different models."
        )
    try:
        find_companions(hf_dir)  # go along with every checkpoint
    except RequestError as error:
        raise RequestError(f"model.path: {error}") from error


def _check_initial_weights(model: ModelConfig, architecture: Architecture) -> None:
    """Of the model, and all there; only headers are read."""
    if model.checkpoint is not None:
        try:
            check_checkpoint(architecture, latest_checkpoint(model.checkpoint))
        except RequestError as error:
            raise RequestError(
                f"model.checkpoint: {error} (model.path is {model.path}; `mindrl convert` writes the checkpoint from it)"
            ) from error
        return
    if not any(model.path.glob("*.safetensors")):
        raise RequestError(
            f"model.path: {model.path} holds no .safetensors file, and model.checkpoint is not given, so there "
            "are no weights to start from. Set model.checkpoint to what `mindrl convert` wrote, or add the weights."
        )
    try:
        check_hf_weights(architecture, model.path)
    except RequestError as error:
        raise RequestError(f"model.path: {error}") from error


def _check_prompts(path: Path, config: Config) -> None:
    load_prompts(path).check(tokenizer_dir=config.model.path, max_prompt_length=config.data.max_prompt_length)


def _check_reward(name: str) -> None:
    try:
        find(name)
    except RequestError as error:
        raise RequestError(f"reward.functions: {error}") from error


def _check_pass_through(config: Config, architecture: Architecture) -> None:
    """The two sections that go to other libraries; those are imported only when there is one."""
    if config.actor.transformer_config:
        from mindrl.models.megatron.transformer_config import build_transformer_config

        build_transformer_config(config.actor, architecture, fused_rope=False)
    if config.rollout.engine_args:
        check_engine_args(config.rollout, hal.choose(config.hal.accelerator), architecture)


def _check_wandb(config: Config) -> None:
    settings = wandb_settings(config.logging, os.environ)
    if settings and not settings.offline:
        require_wandb_server(os.environ)


def _check_device(config: Config, architecture: Architecture) -> list[str]:
    try:
        accelerator = hal.choose(config.hal.accelerator)
    except hal.HalError as error:
        raise RequestError(f"hal.accelerator: {error}") from error
    ray_start_arguments(accelerator, config.cluster.devices_per_node)  # are there that many?
    reason = accelerator.supports_dtype(DTYPES[config.actor.dtype])
    if reason is not None:
        raise RequestError(f"actor.dtype: {reason}")
    notice = choose_engine(config.rollout, accelerator, architecture).notice
    return [notice] if notice else []


def _check_kernels(config: Config, architecture: Architecture) -> None:
    facts = kernel_facts(config.actor, architecture)
    accelerator = hal.choose(config.hal.accelerator)
    try:
        hal.select(accelerator, facts, config.hal.kernels)
    except hal.HalError as error:
        raise RequestError(f"hal.kernels: {error}") from error
