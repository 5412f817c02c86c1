"""Log-probs and entropies of given tokens: time and extra memory, beside the naive path, in one run.

    python benchmarks/log_probs.py [--json] [--loss log_probs] [--threads N] [--tokens N] ...

Paths, all on the same inputs (hidden states, output weight, targets; temperature 1):

- `naive`: logits [tokens, vocabulary] by one product, `log_softmax`, the target's log-prob by `gather`, entropy from all
  log-probs, gradients by autograd. With `--loss log_probs` without the entropy, which ours compute all the same.
- `token_log_probs`: the HAL's selection for the device.
- `token_loss`: the HAL's selection, where the loss is part of the kernel. All its work is in the forward pass, so only
  the sum of both passes is a time to compare.

The loss is a weighted sum of log-probs, and (`--loss both`) of entropies too. Times: rounds of all paths in turn, in one
process, the order reversed every other round; the median of each path's, and of the ratios within a round. CPU seconds
(all threads) stand beside: on a machine that others use too, they say more than the clock.
Memory: each path in a process of its own, the peak that the accelerator counts (on the host the kernel's high-water mark
of resident memory, set back before) less what was held with the inputs made and a small call done; with gradients
also less one gradient of the weight. The products' own libraries are in the small call.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

import hal
from hal.kernels.facts import KernelFacts

PATHS = ("naive", "token_log_probs", "token_loss")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is computed, and where."""

    tokens: int
    hidden: int
    vocab: int
    dtype: str
    loss: str
    chunk_size: int
    accelerator: str
    threads: int
    rounds: int


class Inputs(NamedTuple):
    """[tokens, hidden] and [vocab, hidden] that gradients are wanted for, [tokens] ids, [tokens] weights of the loss."""

    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    of_log_probs: torch.Tensor
    of_entropies: torch.Tensor | None


def make_inputs(setting: Setting, accelerator: hal.Accelerator) -> Inputs:
    """Logits of standard deviation 2, where the hidden states are those of a normalised layer."""
    device, dtype = accelerator.device(), getattr(torch, setting.dtype)
    accelerator.manual_seed(0)
    return Inputs(
        torch.randn(setting.tokens, setting.hidden, device=device, dtype=dtype).requires_grad_(),
        torch.randn(setting.vocab, setting.hidden, device=device, dtype=dtype)
        .mul_(2 * setting.hidden**-0.5)
        .requires_grad_(),
        torch.randint(setting.vocab, (setting.tokens,), device=device),
        torch.randn(setting.tokens, device=device),
        torch.randn(setting.tokens, device=device) if setting.loss == "both" else None,
    )


def loss_paths(setting: Setting, accelerator: hal.Accelerator) -> dict[str, Callable[[Inputs], torch.Tensor]]:
    """The forward pass of each path, to a loss."""
    dtype = getattr(torch, setting.dtype)
    facts = KernelFacts(
        dtype=dtype,
        head_dim=64,
        num_heads=1,
        num_kv_heads=1,
        hidden_size=setting.hidden,
        vocab_size=setting.vocab,
    )
    selection = hal.select(accelerator, facts)
    options: dict[str, Any] = {
        "temperature": 1.0,
        "vocab_size": setting.vocab,
        "chunk_size": setting.chunk_size,
    }

    def weighted(inputs: Inputs, log_probs: torch.Tensor, entropy: torch.Tensor | None, rows: slice):
        losses = log_probs * inputs.of_log_probs[rows]
        if inputs.of_entropies is None or entropy is None:
            return losses
        return losses + entropy * inputs.of_entropies[rows]

    def naive(inputs: Inputs) -> torch.Tensor:
        log_softmax = (inputs.hidden @ inputs.weight.T).float().log_softmax(dim=-1)
        log_probs = log_softmax.gather(1, inputs.targets[:, None])[:, 0]
        entropy = None
        if inputs.of_entropies is not None:
            entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
        return weighted(inputs, log_probs, entropy, slice(None)).sum()

    def token_log_probs(inputs: Inputs) -> torch.Tensor:
        results = selection.token_log_probs(*inputs[:3], **options)
        return weighted(inputs, *results, slice(None)).sum()

    def token_loss(inputs: Inputs) -> torch.Tensor:
        return selection.token_loss(
            *inputs[:3],
            lambda log_probs, entropy, rows: weighted(inputs, log_probs, entropy, rows),
            **options,
        )[0]

    return {"naive": naive, "token_log_probs": token_log_probs, "token_loss": token_loss}


# Memory: one process a path.


def extra_memory(setting: Setting, path: str) -> dict[str, int]:
    """Peak bytes beyond the inputs, forward alone (the graph is kept) and with backward."""
    accelerator = _accelerator(setting)
    function = loss_paths(setting, accelerator)[path]
    small = Setting(**{**asdict(setting), "tokens": 8, "vocab": 64})
    loss_paths(small, accelerator)[path](make_inputs(small, accelerator)).backward()
    inputs = make_inputs(setting, accelerator)
    held = accelerator.memory_allocated()
    accelerator.reset_peak_memory()
    loss = function(inputs)
    forward = accelerator.max_memory_allocated() - held
    loss.backward()
    both = accelerator.max_memory_allocated() - held
    of_weight = inputs.weight.numel() * inputs.weight.itemsize
    # What the fused loss holds after its forward pass is the gradient already.
    return {"forward": forward, "forward_backward": both - of_weight}


# Time: all paths in turn.


def seconds(setting: Setting) -> dict[str, Any]:
    """By path, seconds of every round: forward and both passes, on the clock and of the processor."""
    accelerator = _accelerator(setting)
    paths = loss_paths(setting, accelerator)
    inputs = make_inputs(setting, accelerator)
    found: dict[str, list[tuple[float, ...]]] = {path: [] for path in PATHS}
    few = inputs._replace(
        hidden=inputs.hidden[:64].detach().requires_grad_(), targets=inputs.targets[:64]
    )._replace(of_log_probs=inputs.of_log_probs[:64], of_entropies=None)
    for path in PATHS:
        paths[path](few).backward()
    for turn in range(setting.rounds):
        for path in PATHS if turn % 2 == 0 else PATHS[::-1]:
            inputs.hidden.grad = inputs.weight.grad = None
            accelerator.empty_cache()
            marks = [_now(accelerator)]
            loss = paths[path](inputs)
            marks.append(_now(accelerator))
            loss.backward()
            marks.append(_now(accelerator))
            del loss
            (clock, cpu), (clock_forward, cpu_forward), (clock_both, cpu_both) = marks
            found[path].append((clock_forward - clock, clock_both - clock, cpu_forward - cpu, cpu_both - cpu))
    keys = ("forward", "forward_backward", "cpu_forward", "cpu_forward_backward")
    return {path: dict(zip(keys, zip(*rows, strict=True), strict=True)) for path, rows in found.items()}


def _now(accelerator: hal.Accelerator) -> tuple[float, float]:
    accelerator.synchronize()
    return time.perf_counter(), time.process_time()


def _accelerator(setting: Setting) -> hal.Accelerator:
    torch.set_num_threads(setting.threads)
    return hal.choose(setting.accelerator)


# All of it.


def measure(setting: Setting) -> dict[str, Any]:
    """Extra memory and medians by path, and each divided by the naive path's."""
    memory = {path: _child(setting, "memory", path) for path in PATHS}
    rounds = _child(setting, "seconds")
    paths: dict[str, Any] = {}
    for path in PATHS:
        result: dict[str, Any] = {"extra_bytes": memory[path]}
        result["seconds"] = {key: statistics.median(values) for key, values in rounds[path].items()}
        result["of_naive"] = {
            "extra_bytes": memory[path]["forward_backward"] / memory["naive"]["forward_backward"],
            **{
                key: statistics.median(a / b for a, b in zip(values, rounds["naive"][key], strict=True))
                for key, values in rounds[path].items()
            },
        }
        if path == "token_loss":  # its forward pass is all of it
            for part in (result["seconds"], result["of_naive"]):
                del part["forward"], part["cpu_forward"]
        paths[path] = result
    accelerator = hal.choose(setting.accelerator)
    return {
        "setting": asdict(setting),
        "device": accelerator.description(),
        "torch": torch.__version__,
        "paths": paths,
        "rounds": rounds,
    }


def _child(setting: Setting, what: str, path: str = "") -> Any:
    command = [sys.executable, __file__, "--child", json.dumps([asdict(setting), what, path])]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    if result.returncode:
        raise SystemExit(f"{what} {path} ended with {result.returncode}; its message is above")
    return json.loads(result.stdout)


def _be_child(request: str) -> None:
    fields, what, path = json.loads(request)
    setting = Setting(**fields)
    print(json.dumps(seconds(setting) if what == "seconds" else extra_memory(setting, path)))


def table(result: dict[str, Any]) -> str:
    """For people; ratios in brackets."""
    setting = result["setting"]
    lines = [
        f"{setting['tokens']} tokens, hidden {setting['hidden']}, vocabulary {setting['vocab']}, {setting['dtype']}, "
        f"loss of {setting['loss']}, chunk size {setting['chunk_size']}",
        f"{result['device']}, {setting['threads']} threads, torch {result['torch']}, {setting['rounds']} rounds",
        f"{'path':<16} {'extra memory, MB':>18} {'forward, s':>16} {'both, s':>16} {'both, CPU s':>16}",
    ]
    for path, found in result["paths"].items():
        cells = [
            f"{found['extra_bytes']['forward_backward'] / 1e6:.0f} ({found['of_naive']['extra_bytes']:.3f})"
        ]
        for key in ("forward", "forward_backward", "cpu_forward_backward"):
            known = key in found["seconds"]
            cells.append(f"{found['seconds'][key]:.2f} ({found['of_naive'][key]:.2f})" if known else "-")
        lines.append(f"{path:<16} {cells[0]:>18} " + " ".join(f"{cell:>16}" for cell in cells[1:]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--loss", default="both", choices=("both", "log_probs"))
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="for machines; every round too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = vars(parser.parse_args())
    as_json, request = args.pop("json"), args.pop("child")
    if request is not None:
        _be_child(request)
        return
    result = measure(Setting(**args))
    print(json.dumps(result, indent=2) if as_json else table(result))


if __name__ == "__main__":
    main()
