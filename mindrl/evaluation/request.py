"""What `mindrl eval` is asked, and whether the models and the data set can serve it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mindrl.data.prompts import PromptDataset
from mindrl.data.records import Prompt
from mindrl.data.stop_tokens import stop_token_ids
from mindrl.errors import RequestError
from mindrl.evaluation.evaluate import EvaluationSettings
from mindrl.files import read_json_object
from mindrl.models.safetensors_reader import SafetensorsReader
from mindrl.weight_maps import Architecture, read_architecture

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LONGEST_DEFAULT_RESPONSE = 1024
COSMETIC_KEYS = ("_name_or_path", "transformers_version")
"""Entries of a config.json that don't change the model."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to evaluate on what, and how."""

    models: tuple[Path, ...]
    """Hugging Face directories."""
    dataset: Path
    """A preprocessed .parquet file."""
    rewards: tuple[str, ...]
    """Reward functions; a response's score is the sum of theirs."""
    engine: Literal["auto", "vllm", "hf"] = "auto"
    n_samples: int = 1
    temperature: float = 0.0
    max_response_length: int | None = None
    """None: what the model's context leaves after the longest prompt, at most 1024."""
    limit: int | None = None
    """Only so many prompts, from the first."""
    correct_at: float = 1.0
    """Score from which a response counts as right."""
    seed: int = 0
    accelerator: str = "auto"
    reward_timeout_seconds: float = 10.0
    reward_workers: int = 1


@dataclass(frozen=True, slots=True)
class ModelSetup:
    """One model, checked, with what it will be asked."""

    hf_dir: Path
    config: Mapping[str, Any]
    """Its config.json, without what doesn't change the model."""
    architecture: Architecture
    dtype: torch.dtype
    prompts: Sequence[Prompt]
    settings: EvaluationSettings
    max_model_length: int
    """Tokens of the longest prompt with the longest response."""


def check_model(request: EvaluationRequest, dataset: PromptDataset, hf_dir: Path) -> ModelSetup:
    """`RequestError` if the directory holds no model, or one that the data set was not made for."""
    if not (hf_dir / "config.json").is_file():
        raise RequestError(
            f"{hf_dir} holds no config.json; give a Hugging Face directory (see `mindrl convert`)"
        )
    with SafetensorsReader(hf_dir):  # refuses a directory without weights
        pass
    config = read_json_object(hf_dir / "config.json")
    architecture = read_architecture(hf_dir)
    length = _response_length(request, dataset, hf_dir, config.get("max_position_embeddings"))
    dataset.check(tokenizer_dir=hf_dir, max_prompt_length=dataset.longest_prompt)
    return ModelSetup(
        hf_dir=hf_dir,
        config={key: value for key, value in config.items() if key not in COSMETIC_KEYS},
        architecture=architecture,
        dtype=_dtype(hf_dir, config),
        prompts=dataset[: request.limit],
        settings=EvaluationSettings(
            max_response_length=length,
            stop_token_ids=stop_token_ids(hf_dir),
            temperature=request.temperature,
            n_samples=request.n_samples,
            seed=request.seed,
        ),
        max_model_length=dataset.longest_prompt + length,
    )


def by_architecture(setups: Sequence[ModelSetup]) -> list[list[ModelSetup]]:
    """Neighbours that one engine can serve one after the other."""
    groups: list[list[ModelSetup]] = []
    for setup in setups:
        if groups and (groups[-1][0].config, groups[-1][0].max_model_length) == (
            setup.config,
            setup.max_model_length,
        ):
            groups[-1].append(setup)
        else:
            groups.append([setup])
    return groups


def _response_length(
    request: EvaluationRequest, dataset: PromptDataset, hf_dir: Path, context: int | None
) -> int:
    """The length asked for, or what the context leaves; `RequestError` if it leaves less."""
    if context is None:
        return request.max_response_length or LONGEST_DEFAULT_RESPONSE
    left = context - dataset.longest_prompt
    length = request.max_response_length or min(max(left, 1), LONGEST_DEFAULT_RESPONSE)
    if length > left:
        raise RequestError(
            f"{hf_dir} has a context of {context} tokens, of which the longest prompt of {dataset.path} takes "
            f"{dataset.longest_prompt}, so a response of {length} does not fit; ask for a smaller "
            "--max-response-length, or preprocess with a smaller seq_length"
        )
    return length


def _dtype(hf_dir: Path, config: Mapping[str, Any]) -> torch.dtype:
    """The type that config.json names for the weights; float32 where it names none."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if name not in DTYPES:
        raise RequestError(f"{hf_dir}/config.json names dtype {name}; evaluation runs in {', '.join(DTYPES)}")
    return DTYPES[name]
