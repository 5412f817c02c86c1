"""Prompts: where they come from and how long they may be."""

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from mindrl.config.base import Section, Seed


class DatasetSource(Section):
    """One preprocessed data set (`mindrl preprocess` writes it)."""

    path: Path
    """The preprocessed .parquet file."""
    weight: PositiveFloat = 1.0
    """Share of prompts drawn from this set, relative to the other sets' weights."""


class DataConfig(Section):
    """Training and evaluation prompts."""

    train: tuple[DatasetSource, ...] = Field(min_length=1)
    """Sets to train on."""
    eval: tuple[DatasetSource, ...] = ()
    """Sets to evaluate on; their weights have no effect."""
    max_prompt_length: PositiveInt
    """Tokens a prompt may have; longer prompts are an error in training (preprocessing drops and counts them)."""
    max_response_length: PositiveInt
    """Tokens a response may have; longer responses are cut and counted as truncated."""
    seed: Seed = 0
    """Seed of the order in which prompts are drawn."""
