"""The smallest yaml that loads."""

from pathlib import Path

MINIMAL = """\
model: {path: model}
data: {train: [{path: train.parquet}], max_prompt_length: 16, max_response_length: 8}
actor: {micro_batch_size: 2, mini_batch_size: 4, optimizer: {lr: 1e-3}}
rollout: {n_samples: 4}
reward: {functions: [{name: exact_match}]}
trainer: {global_batch_size: 8, total_steps: 10, output_dir: out}
"""


def minimal_yaml(folder: Path) -> Path:
    """Write `MINIMAL` into a folder."""
    path = folder / "run.yaml"
    path.write_text(MINIMAL)
    return path
