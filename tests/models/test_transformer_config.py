"""`actor.transformer_config` reaches Megatron-core, or says why it can't."""

from pathlib import Path

import pytest
from tiny_models import make_config, save_tiny_model

from mindrl.errors import RequestError
from mindrl.models.megatron.transformer_config import build_transformer_config, check_pass_through
from mindrl.weight_maps import read_architecture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3-untied")


def test_fields_are_passed_through(model: Path) -> None:
    config = make_config(model, 1, transformer_config={"hidden_dropout": 0.1})
    built = build_transformer_config(config.actor, read_architecture(model), fused_rope=False)
    assert built.hidden_dropout == 0.1


def test_a_misspelt_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RequestError, match=r"did you mean .*recompute_granularity"):
        check_pass_through({"recompute_granularty": "full"})


def test_a_field_that_the_model_or_the_layout_decides_is_refused() -> None:
    with pytest.raises(RequestError, match=r"num_layers.* decides it itself"):
        check_pass_through({"num_layers": 3})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"recompute_granularity": "sometimes"}, "found 'sometimes', expected 'full' or 'selective' or null"),
        ({"attention_dropout": "x"}, "found 'x', expected a number"),
        ({"attention_dropout": 7}, "found 7, expected a share of at least 0 and below 1"),
    ],
)
def test_a_value_that_can_not_be_meant_is_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        check_pass_through(given)


GROUPED_EXPERTS_ONLY = {"recompute_granularity": "selective", "recompute_modules": ["moe_act"]}


def test_what_megatron_refuses_is_a_request_error(model: Path) -> None:
    config = make_config(model, 1, transformer_config=GROUPED_EXPERTS_ONLY)
    with pytest.raises(RequestError, match="Megatron-core refuses"):
        build_transformer_config(config.actor, read_architecture(model), fused_rope=False)
