"""One run from configuration to summary: start everything, fit, stop everything."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import hal
from mindrl.cluster.environment import worker_environment
from mindrl.cluster.ray_cluster import check_address, ray_cluster
from mindrl.config import dump
from mindrl.config.paths import with_absolute_paths
from mindrl.config.schema import Config
from mindrl.planning.batch import BatchPlan
from mindrl.planning.topology import Topology
from mindrl.rollout.choose import engine_environment
from mindrl.trainer.advantages import Advantages
from mindrl.trainer.checkpoints import Checkpoints
from mindrl.trainer.evaluator import Evaluator
from mindrl.trainer.grpo import GrpoTrainer
from mindrl.trainer.learner import Learner
from mindrl.trainer.metrics import MetricLog
from mindrl.trainer.progress import ProgressLine
from mindrl.trainer.prompts import Prompts
from mindrl.trainer.recorder import Recorder
from mindrl.trainer.resume import ResumePoint, find_resume_point
from mindrl.trainer.rewards import Rewards
from mindrl.trainer.run_directory import RunDirectory
from mindrl.trainer.summary import summarize
from mindrl.workers.group import WorkerGroup
from mindrl.workers.placement import Devices, start_service
from mindrl.workers.policy import Policy
from mindrl.workers.prompt_worker import PromptWorker
from mindrl.workers.reward_worker import RewardWorker


def train(config: Config, *, resume: bool = False) -> dict[str, object]:
    """Run GRPO as configured, on a request that `check_request` has let through; returns the summary."""
    check_address(config.cluster)
    choice = hal.decide(config.hal.accelerator)
    accelerator = choice.accelerator
    directory = RunDirectory(config.trainer.output_dir.absolute())
    point = find_resume_point(directory) if resume else None
    steps_done = point.step if point else 0
    config_as_given, config = config, _for_workers(config, accelerator)
    with ExitStack() as stack:
        progress = ProgressLine(config.trainer.total_steps)
        stack.callback(progress.close)
        progress.note(str(choice))
        progress.note(f"starting {config.cluster.world_size} worker(s) on {accelerator.description()}")
        worker_logs = directory.path / "logs" / "workers"
        stack.enter_context(ray_cluster(config.cluster, accelerator, worker_logs, progress.note))
        # Only now, when all devices are there, does an earlier run in this directory give way.
        if resume:
            directory.rewind(steps_done)
        else:
            directory.prepare()
        directory.write_text("config.yaml", dump(config_as_given))
        name = directory.path.name
        log = stack.enter_context(MetricLog(directory.path, config.logging, name, steps_done=steps_done))
        environment = worker_environment(config.cluster, accelerator, engine_environment(accelerator))
        services = stack.enter_context(_services(config, environment))
        workers = stack.enter_context(_policy_workers(config, accelerator, environment, resumed=resume))
        _write_hal_facts(directory, workers)
        recorder = Recorder(
            log,
            progress,
            total_steps=config.trainer.total_steps,
            world_size=config.cluster.world_size,
            logprob_gap_warn=config.rollout.logprob_gap_warn,
        )
        trainer = _assemble(config, directory, workers, services, recorder, point)
        start = time.perf_counter()
        trainer.fit()
        summary = summarize(
            recorder.rows,
            seconds=time.perf_counter() - start,
            device=accelerator.name,
            world_size=config.cluster.world_size,
        )
        directory.write_json("summary.json", summary)
    return summary


def _for_workers(config: Config, accelerator: hal.Accelerator) -> Config:
    """The same on every worker: paths, and the device. A worker that can't see the device that `auto` found here
    shall say so, not find another."""
    config = with_absolute_paths(config)
    return config.model_copy(update={"hal": config.hal.model_copy(update={"accelerator": accelerator.name})})


def _assemble(
    config: Config,
    directory: RunDirectory,
    workers: WorkerGroup,
    services: dict[str, WorkerGroup],
    recorder: Recorder,
    point: ResumePoint | None,
) -> GrpoTrainer:
    """Connect the collaborators of `fit`."""
    plan = BatchPlan.from_config(config)
    policy = Policy(workers, Topology.from_config(config), plan)
    total_steps = config.trainer.total_steps
    prompts = Prompts(services["prompts"], config.trainer.global_batch_size)
    rewards = Rewards(
        services["rewards"],
        recorder,
        run_dir=directory.path,
        sample_interval=config.trainer.sample_interval,
        total_steps=total_steps,
    )
    return GrpoTrainer(
        prompts=prompts,
        learner=Learner(policy, config, plan, recorder),
        rewards=rewards,
        advantages=Advantages(config.algorithm.advantage, recorder),
        evaluator=Evaluator(
            policy,
            prompts,
            rewards,
            recorder,
            interval=config.trainer.eval_interval,
            total_steps=total_steps,
            full_score=sum(max(0.0, function.weight) for function in config.reward.functions),
        ),
        checkpoints=Checkpoints(policy, prompts, recorder, config, directory, point),
        recorder=recorder,
    )


@contextmanager
def _services(config: Config, environment: dict[str, str]) -> Iterator[dict[str, WorkerGroup]]:
    """The actors beside the policy workers, by name; they start while the policy workers do."""
    limit = config.cluster.worker_timeout_seconds
    prompts = start_service(PromptWorker, environment, config.data)
    rewards = start_service(RewardWorker, environment, config.reward, config.model.path)
    services = {
        "prompts": WorkerGroup([prompts], limit, "prompt worker"),
        "rewards": WorkerGroup([rewards], limit, "reward worker"),
    }
    yield services
    services["rewards"].call("close")


@contextmanager
def _policy_workers(
    config: Config, accelerator: hal.Accelerator, environment: dict[str, str], *, resumed: bool
) -> Iterator[WorkerGroup]:
    """The policy workers, set up. They are asked to close only when all went well; Ray's end kills them anyway."""
    devices = Devices(config, accelerator)
    workers = devices.start_policy_workers(config, environment)
    try:
        address = workers.call("propose_address")[0]
        workers.call("setup", config, address, resumed)
        yield workers
        workers.call("close")
    finally:
        workers.kill()
        devices.release()


def _write_hal_facts(directory: RunDirectory, workers: WorkerGroup) -> None:
    """hal.txt for people, hal.json for machines: device and kernels, which are the same on every worker."""
    facts = workers.call("device_facts")[0]
    directory.write_text("hal.txt", str(facts.pop("table")))
    directory.write_text("hal.json", json.dumps(facts, indent=2) + "\n")
