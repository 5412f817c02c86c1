"""Which layers each pipeline stage holds, against Megatron-core's own answer."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.transformer_block import get_num_layers_to_build

from mindrl.errors import RequestError
from mindrl.planning.stages import stage_layers


@dataclass(frozen=True)
class Layout:
    """What of `ActorConfig` matters here."""

    pipeline_model_parallel_size: int
    transformer_config: dict = field(default_factory=dict)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, Layout]:
    stages = draw(st.integers(2, 5))
    given: dict = {}
    if draw(st.booleans()):
        for end in ("first", "last"):
            if draw(st.booleans()):
                given[f"num_layers_in_{end}_pipeline_stage"] = draw(st.integers(1, 6))
    else:
        for part in ("embedding", "loss"):
            given[f"account_for_{part}_in_pipeline_split"] = draw(st.booleans())
    return draw(st.integers(1, 24)), Layout(stages, given)


def layers_in_megatron(num_layers: int, layout: Layout) -> list[int] | None:
    """None where it refuses, or loses layers."""
    config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    config.num_layers, config.pipeline_model_parallel_size = num_layers, layout.pipeline_model_parallel_size
    for name, value in layout.transformer_config.items():
        setattr(config, name, value)
    try:
        counts = [
            get_num_layers_to_build(config, pp_rank=stage)
            for stage in range(layout.pipeline_model_parallel_size)
        ]
    except AssertionError:
        return None
    return counts if sum(counts) == num_layers and min(counts) >= 0 else None


@given(layouts())
def test_stages_are_megatrons_or_refused_where_it_would(case: tuple[int, Layout]):
    num_layers, layout = case
    expected = layers_in_megatron(num_layers, layout)
    if expected is None:
        with pytest.raises(RequestError):
            stage_layers(num_layers, layout)
        return
    stages = stage_layers(num_layers, layout)
    assert [len(stage) for stage in stages] == expected
    assert [layer for stage in stages for layer in stage] == list(range(num_layers))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "the model's 7 layers can't be divided into 2 stages of equal length"),
        (
            {"num_layers_in_first_pipeline_stage": 9},
            "num_layers_in_first_pipeline_stage: 9, -2 of the model's 7",
        ),
        ({"num_layers_in_last_pipeline_stage": 0}, "found 0, expected a positive number of layers"),
        (
            {"num_layers_in_last_pipeline_stage": 3, "account_for_loss_in_pipeline_split": True},
            "so they can't stand beside",
        ),
    ],
)
def test_a_refusal_names_the_key_and_the_numbers(given: dict, sentence: str):
    with pytest.raises(RequestError, match=sentence):
        stage_layers(7, Layout(2, given))
