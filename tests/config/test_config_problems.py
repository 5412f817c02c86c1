"""What a user reads when a configuration is wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindrl.config import Config, load
from mindrl.config.names import check_pass_through, keys, nearest_key
from mindrl.errors import RequestError


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        load(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("actor.lr=1", "actor.lr: unknown key; did you mean actor.optimizer.lr?"),
        ("trainer.totl_steps=1", "trainer.totl_steps: unknown key; did you mean trainer.total_steps?"),
        ("trainer.n_samples=1", "trainer.n_samples: unknown key; did you mean rollout.n_samples?"),
        ("tainer.seed=1", "tainer: unknown key; did you mean trainer?"),
        (
            "reward.functions[0].wieght=2",
            "reward.functions[0].wieght: unknown key; did you mean reward.functions[0].weight?",
        ),
        ("data.foo=1", "data.foo: unknown key; data has train, eval, max_prompt_length"),
        ("trainer.total_steps=many", "trainer.total_steps: found 'many', expected a valid integer"),
        ("trainer.total_steps=0", "trainer.total_steps: found 0, expected a number above 0"),
        (
            "trainer.total_steps=true",
            "trainer.total_steps: found true, expected something other than a truth",
        ),
        ("actor.optimizer.lr=.nan", "actor.optimizer.lr: found nan, expected a finite number"),
        ("rollout.engine=vlm", "rollout.engine: found 'vlm', expected 'auto', 'vllm', 'hf' or 'replay'"),
        ("actor.optimizer=3", "actor.optimizer: found 3, expected a section with name, lr"),
        ("reward.functions=[]", "reward.functions: empty; it needs at least one entry"),
        ("data.train=[]", "data.train: empty; it needs at least one entry"),
        ("model.path=null", "model.path: found null, expected a path"),
    ],
)
def test_a_problem_is_one_line_with_key_finding_and_remedy(minimal: Path, override: str, line: str):
    assert line in refusal(minimal, override)


def test_all_problems_are_reported_at_once(minimal: Path):
    message = refusal(minimal, "data.foo=1", "trainer.seed=x", "rollout.engine=y")
    assert message.splitlines()[0].endswith("run.yaml: 3 problems")
    assert len(message.splitlines()) == 4


def test_an_item_with_a_problem_does_not_make_its_list_look_empty(minimal: Path):
    assert len(refusal(minimal, "reward.functions[0].wieght=2").splitlines()) == 2


def test_a_missing_key_is_named(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("model: {}")
    message = refusal(tmp_path / "run.yaml")
    assert "model.path: missing; it has no default" in message
    assert "trainer: missing" in message


NAMES = [key for key in keys(Config) if len(key.rpartition(".")[2]) >= 4]


@given(key=st.sampled_from(NAMES), data=st.data())
def test_a_key_with_a_letter_too_few_or_two_swapped_is_recognised(key: str, data: st.DataObject):
    parent, dot, name = key.rpartition(".")
    at = data.draw(st.integers(0, len(name) - 2))
    shorter = name[:at] + name[at + 1 :]
    swapped = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    for wrong in (shorter, swapped):
        if wrong != name:
            assert nearest_key(Config, parent + dot + wrong) == key


def test_pass_through_names_are_checked_against_what_the_library_takes():
    def check(**given: object) -> None:
        check_pass_through(
            "actor.transformer_config",
            given,
            known={"layernorm_epsilon": float, "attention_dropout": float, "sequence_parallel": bool},
            refused={"sequence_parallel": "it is actor.sequence_parallel"},
            receiver="Megatron's TransformerConfig",
        )

    check(attention_dropout=0.1)
    with pytest.raises(RequestError) as caught:
        check(atention_dropout=0.1, sequence_parallel=True, zzz=1, layernorm_epsilon="x")
    assert str(caught.value).splitlines() == [
        "actor.transformer_config.atention_dropout: Megatron's TransformerConfig has no such field; did you mean "
        "actor.transformer_config.attention_dropout?",
        "actor.transformer_config.sequence_parallel: can't be set here: it is actor.sequence_parallel",
        "actor.transformer_config.zzz: Megatron's TransformerConfig has no such field",
        "actor.transformer_config.layernorm_epsilon: found 'x', expected a number",
    ]
