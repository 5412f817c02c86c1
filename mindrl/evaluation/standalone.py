"""Evaluation of Hugging Face directories in one process, without Ray: what `mindrl eval` does."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import hal
from mindrl.config.rollout import RolloutConfig
from mindrl.data.encoding import load_tokenizer
from mindrl.data.prompts import load_prompts
from mindrl.errors import RequestError
from mindrl.evaluation.evaluate import Answer, Evaluation, Score, evaluate
from mindrl.evaluation.request import EvaluationRequest, ModelSetup, by_architecture, check_model
from mindrl.models.safetensors_reader import SafetensorsReader
from mindrl.planning.batch import MAX_SEQUENCES
from mindrl.rewards import RewardItem, RewardPool
from mindrl.rollout.choose import choose_engine, engine_environment, make_engine
from mindrl.rollout.engine import RolloutEngine
from mindrl.weight_maps import weight_map

JOIN_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ModelEvaluation:
    """One model's figures and answers."""

    model: Path
    engine: str
    seconds: float
    """Generation and scoring, without starting the engine."""
    evaluation: Evaluation


def evaluate_models(
    request: EvaluationRequest, on_notice: Callable[[str], None] = lambda text: None
) -> list[ModelEvaluation]:
    """Evaluate each model; consecutive ones of equal config.json share an engine, whose weights are replaced.

    `RequestError` before anything starts when a directory, the data set or a reward can't be served."""
    dataset = load_prompts(request.dataset)
    setups = [check_model(request, dataset, hf_dir) for hf_dir in request.models]
    accelerator = hal.choose(request.accelerator)
    hal.prepare_process(accelerator, processes_per_node=1)
    rollout = RolloutConfig(engine=request.engine, n_samples=request.n_samples, gpu_memory_utilization=0.8)
    choices = {setup.hf_dir: choose_engine(rollout, accelerator, setup.architecture) for setup in setups}
    for notice in dict.fromkeys(choice.notice for choice in choices.values()):
        if notice is not None:
            on_notice(notice)
    os.environ.update(engine_environment(accelerator))
    results: list[ModelEvaluation] = []
    with _pool(request) as pool:
        for group in by_architecture(setups):
            with _engine(group[0], rollout, request.seed, accelerator) as engine:
                for setup in group:
                    name = choices[setup.hf_dir].name
                    results.append(_evaluate_model(setup, len(results), engine, pool, request, name))
    return results


def _pool(request: EvaluationRequest) -> RewardPool:
    return RewardPool(
        [(name, 1.0) for name in request.rewards],
        timeout_seconds=request.reward_timeout_seconds,
        workers=request.reward_workers,
    )


@contextmanager
def _engine(
    setup: ModelSetup, rollout: RolloutConfig, seed: int, accelerator: hal.Accelerator
) -> Iterator[RolloutEngine]:
    """An engine in a process group of one."""
    with tempfile.TemporaryDirectory(prefix="mindrl-eval-") as meeting_place:
        hal.communication.initialize(
            accelerator,
            rank=0,
            world_size=1,
            init_method=f"file://{meeting_place}/group",
            timeout_seconds=JOIN_TIMEOUT_SECONDS,
        )
        try:
            engine = make_engine(
                rollout,
                setup.hf_dir,
                dtype=setup.dtype,
                max_model_length=setup.max_model_length,
                max_sequences=min(MAX_SEQUENCES, len(setup.prompts) * setup.settings.n_samples),
                seed=seed,
                job_id=f"eval-{os.getpid()}",
                accelerator=accelerator,
            )
            try:
                yield engine
            finally:
                engine.close()
        finally:
            hal.communication.destroy()


def _evaluate_model(
    setup: ModelSetup,
    version: int,
    engine: RolloutEngine,
    pool: RewardPool,
    request: EvaluationRequest,
    engine_name: str,
) -> ModelEvaluation:
    tokenizer = load_tokenizer(setup.hf_dir)
    engine.update_weights(_weights(setup), version)
    total = len(setup.prompts) * setup.settings.n_samples
    started = time.perf_counter()
    with tqdm(total=total, desc=f"evaluating {setup.hf_dir}", unit="response", disable=None) as bar:
        evaluation = evaluate(
            engine,
            setup.prompts,
            _score_with(pool),
            lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            setup.settings,
            correct_at=request.correct_at,
            on_progress=bar.update,
        )
    return ModelEvaluation(setup.hf_dir, engine_name, time.perf_counter() - started, evaluation)


def _weights(setup: ModelSetup) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the model by its Hugging Face name, tied ones once."""
    hf_dir = setup.hf_dir
    with SafetensorsReader(hf_dir) as reader:
        for rule in weight_map(setup.architecture).rules:
            for source in rule.hf:
                tensor = reader.tensor(source.name)
                if not tensor.isfinite().all():
                    raise RequestError(
                        f"{source.name} in {hf_dir} holds values that are not finite; these weights are broken"
                    )
                yield source.name, tensor


def _score_with(pool: RewardPool) -> Score:
    def score(answers: Sequence[Answer]) -> list[float]:
        items = [
            RewardItem(
                response=answer.response,
                ground_truth=answer.prompt.ground_truth,
                prompt=answer.prompt.prompt,
                extra=answer.prompt.extra,
            )
            for answer in answers
        ]
        return [outcome.score for outcome in pool.score(items)]

    return score
