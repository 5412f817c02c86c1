"""Memory of a policy worker, phase by phase, beside the estimate of `mindrl plan`. On the host, with random weights.

    python benchmarks/memory.py [NAME ...] [--json]        names: see CASES; all but `small` by default

Each rank is a process that builds what a policy worker holds (`mindrl.workers.build`: actor, reference, vLLM engine)
and runs steps on prompts and responses as long as the configuration allows: no end token is ever sampled, by a seed
that a random model leaves at 1 in the size of its vocabulary. Resident memory is taken from /proc: the kernel's
high-water mark, set back before each phase, less what was resident after all imports. Steps repeat; a phase's figure is
its largest. The estimate's rank is the one compared; with several ranks the largest of them.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS = 3


@dataclass(frozen=True)
class Case:
    """A model and a run of it."""

    model: dict[str, Any]
    """Its config.json."""
    prompt: int
    response: int
    micro_batch_size: int
    dtype: str = "float32"
    reference: bool = False
    world_size: int = 1
    n_samples: int = 4
    prompts: int = 4
    mini_batch: int | None = None
    """Prompts of an optimizer step; None: all, so that old log-probs take no pass of their own."""
    actor: dict[str, Any] = field(default_factory=dict)
    rollout: dict[str, Any] = field(default_factory=dict)

    def config(self, directory: Path) -> dict[str, Any]:
        """The run's configuration around the model in `directory`."""
        return {
            "hal": {"accelerator": "cpu"},
            "cluster": {"devices_per_node": self.world_size},
            "model": {"path": str(directory)},
            "data": {
                "train": [{"path": "unused.parquet"}],
                "max_prompt_length": self.prompt,
                "max_response_length": self.response,
            },
            "actor": {
                "micro_batch_size": self.micro_batch_size,
                "mini_batch_size": self.mini_batch or self.prompts,
                "dtype": self.dtype,
                "optimizer": {"lr": 1e-6},
                **self.actor,
            },
            # Random weights in narrow types differ by more than a trained model's would.
            "rollout": {"n_samples": self.n_samples, "logprob_gap_stop": 100.0, **self.rollout},
            "reward": {"functions": [{"name": "exact_match"}]},
            "algorithm": {"kl": {"coef": 0.01 if self.reference else 0.0}},
            "trainer": {"global_batch_size": self.prompts, "total_steps": STEPS, "output_dir": "unused"},
        }


def _model(model_type: str, **sizes: Any) -> dict[str, Any]:
    name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}[model_type]
    fixed = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "hidden_act": "silu", "eos_token_id": 0}
    return {"architectures": [f"{name}ForCausalLM"], "model_type": model_type, **fixed, **sizes}


_BIG_VOCABULARY = _model(
    "qwen2",
    vocab_size=100_000,
    hidden_size=640,
    intermediate_size=2560,
    num_hidden_layers=10,
    num_attention_heads=10,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
_DEEP = _model(
    "llama",
    vocab_size=32_000,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=28,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=64,
    tie_word_embeddings=False,
)
_HEAD_NORMS = _model(
    "qwen3",
    vocab_size=60_000,
    hidden_size=768,
    intermediate_size=2304,
    num_hidden_layers=9,
    num_attention_heads=12,
    num_key_value_heads=4,
    head_dim=64,
    tie_word_embeddings=True,
)
_SMALL = _model(
    "qwen2",
    vocab_size=20_000,
    hidden_size=384,
    intermediate_size=1536,
    num_hidden_layers=6,
    num_attention_heads=6,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)

CASES = {
    "qwen2-float32": Case(_BIG_VOCABULARY, prompt=128, response=128, micro_batch_size=2),
    "llama-bfloat16-reference": Case(
        _DEEP, prompt=256, response=256, micro_batch_size=4, dtype="bfloat16", reference=True
    ),
    "qwen3-tp2-reference": Case(
        _HEAD_NORMS,
        prompt=64,
        response=192,
        micro_batch_size=4,
        prompts=2,
        reference=True,
        world_size=2,
        actor={"tensor_model_parallel_size": 2, "sequence_parallel": True},
        rollout={"tensor_parallel_size": 2},
    ),
    "llama-float32-minibatches": Case(
        _DEEP, prompt=64, response=64, micro_batch_size=2, mini_batch=1, prompts=2
    ),
    "small": Case(_SMALL, prompt=64, response=64, micro_batch_size=2, prompts=2),
}
"""`small` has 24 M parameters and is what the tests run."""


def measure(case: Case) -> dict[str, Any]:
    """Run a case: parameters, bytes by phase measured (largest rank) and estimated."""
    from mindrl.config.schema import Config
    from mindrl.planning.memory import estimate_memory
    from mindrl.planning.parameters import model_parameters
    from mindrl.weight_maps import architecture_of

    architecture = architecture_of(case.model)
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        write_model(model, case.model, case.dtype)
        config = case.config(model)
        ranks = _run_ranks(config, Path(directory))
        estimate = estimate_memory(Config.model_validate(config), architecture)
    measured = {phase: max(rank[phase] for rank in ranks) for phase in ranks[0]}
    return {
        "parameters": model_parameters(architecture).total,
        "measured": measured,
        "estimated": dict(estimate.phases),
        "parts": {part.name: part.bytes for part in estimate.parts},
        "peak": {"measured": max(measured.values()), "estimated": estimate.peak},
    }


def write_model(directory: Path, config: dict[str, Any], dtype: str) -> None:
    """A Hugging Face directory with random weights."""
    import torch
    from safetensors.torch import save_file

    from mindrl.weight_maps import architecture_of, weight_map

    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        tensor.name: torch.ones(tensor.shape, dtype=getattr(torch, dtype))
        if "norm" in tensor.name
        else (0.02 * torch.randn(tensor.shape, generator=generator)).to(getattr(torch, dtype))
        for tensor in weight_map(architecture_of(config)).hf_tensors
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _run_ranks(config: dict[str, Any], directory: Path) -> list[dict[str, int]]:
    """One process a rank, in the environment that the workers of a run get."""
    import hal
    from mindrl.cluster.environment import worker_environment
    from mindrl.config.schema import Config
    from mindrl.rollout.choose import engine_environment

    checked, accelerator = Config.model_validate(config), hal.choose("cpu")
    environment = worker_environment(checked.cluster, accelerator, engine_environment(accelerator))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    job, world_size = os.urandom(4).hex(), checked.cluster.world_size
    processes: list[subprocess.Popen[bytes]] = []
    for rank in range(world_size):
        request = {
            "config": config,
            "identity": [rank, world_size, rank, job],
            "address": address,
            "directory": str(directory),
        }
        command = [sys.executable, str(Path(__file__).with_name("memory_rank.py")), json.dumps(request)]
        log = (directory / f"rank{rank}.log").open("wb")
        processes.append(
            subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT)
        )
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, code in enumerate(codes):
        if code:
            raise SystemExit(f"rank {rank} ended with {code}:\n{(directory / f'rank{rank}.log').read_text()}")
    return [json.loads((directory / f"rank{rank}.json").read_text()) for rank in range(world_size)]


def table(name: str, result: dict[str, Any]) -> str:
    """Phases of one case in MB."""
    lines = [
        f"{name}: {result['parameters'] / 1e6:.0f} M parameters",
        "  phase            estimate  measured  ratio",
    ]
    rows = {phase: (result["estimated"][phase], size) for phase, size in result["measured"].items()}
    rows["peak"] = (result["peak"]["estimated"], result["peak"]["measured"])
    for phase, (estimated, measured) in rows.items():
        lines.append(
            f"  {phase:<15} {estimated / 1e6:>9.0f} {measured / 1e6:>9.0f} {estimated / measured:>6.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CASES)}")
    parser.add_argument("--json", action="store_true", help="for machines; sizes in bytes")
    args = parser.parse_args()
    if unknown := set(args.names) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    results: dict[str, Any] = {}
    for name in args.names or [name for name in CASES if name != "small"]:
        results[name] = measure(CASES[name])
        if not args.json:
            print(table(name, results[name]), flush=True)
    if args.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
