"""Composition, overrides, environment, and the way back to yaml."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mindrl.config import Config, dump, load
from mindrl.errors import RequestError
from tests.config.config_files import minimal_yaml


def test_a_file_wins_over_its_defaults_and_the_later_default_over_the_earlier(tmp_path: Path, minimal: Path):
    (tmp_path / "a.yaml").write_text("rollout: {temperature: 0.5, tensor_parallel_size: 1}\ndata: {seed: 1}")
    (tmp_path / "b.yaml").write_text("rollout: {temperature: 0.6}\ndata: {seed: 2}")
    top = tmp_path / "top.yaml"
    top.write_text(f"defaults: [{minimal.name}, a.yaml, b.yaml]\ndata: {{seed: 3}}")
    config = load(top)
    assert (config.rollout.temperature, config.data.seed, config.rollout.n_samples) == (0.6, 3, 4)


def test_defaults_are_relative_to_the_file_that_names_them(tmp_path: Path, minimal: Path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/middle.yaml").write_text("defaults: [../run.yaml]\ndata: {seed: 5}")
    top = tmp_path / "top.yaml"
    top.write_text("defaults: [inner/middle.yaml]")
    assert load(top).data.seed == 5


def test_files_that_build_on_each_other_are_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("defaults: [b.yaml]")
    (tmp_path / "b.yaml").write_text("defaults: [a.yaml]")
    with pytest.raises(RequestError, match="leads back to this file"):
        load(tmp_path / "a.yaml")


def test_overrides_win_and_reach_into_lists_and_pass_throughs(minimal: Path):
    config = load(
        minimal,
        [
            "actor.optimizer.lr=1e-6",
            "actor.optimizer.betas=[0.8,0.9]",
            "reward.functions[0].weight=2",
            "actor.transformer_config.layernorm_zero_centered_gamma=true",
            "cluster.env.SOME_FLAG=1",
        ],
    )
    assert config.actor.optimizer.lr == 1e-6
    assert config.actor.optimizer.betas == (0.8, 0.9)
    assert config.reward.functions[0].weight == 2.0
    assert config.actor.transformer_config == {"layernorm_zero_centered_gamma": True}
    assert config.cluster.env == {"SOME_FLAG": "1"}


def test_the_environment_is_read_where_the_yaml_asks_for_it(minimal: Path, monkeypatch: pytest.MonkeyPatch):
    text = "\ncluster: {num_nodes: '${oc.env:NNODES,1}', devices_per_node: '${oc.env:PER_NODE,2}'}\n"
    minimal.write_text(minimal.read_text() + text)
    monkeypatch.delenv("NNODES", raising=False)
    monkeypatch.setenv("PER_NODE", "4")
    assert load(minimal).cluster.world_size == 4


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("actor.optimizer.lr", "expected key=value"),
        ("=3", "expected key=value"),
        ("actor..lr=3", "expected key=value"),
        ("data.seed=[1", "can't be applied"),
        ("reward.functions[7].name=x", "can't be applied"),
        ("data.seed=${no.such.key}", "no"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(minimal: Path, override: str, problem: str):
    with pytest.raises(RequestError, match=problem):
        load(minimal, [override])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(RequestError, match=r"absent\.yaml: can't read .* No such file"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", "not valid yaml"),
        ("a: 1\na: 2", "duplicate key"),
        ("- a\n- b", "expected sections"),
        ("defaults: base.yaml", "expected a list of files"),
        ("just words", "has just words, and the keys"),
        ("", "holds nothing; its keys are hal"),
        ("model: {}", "data: missing"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str, problem: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=problem):
        load(path)


def test_a_loaded_configuration_cannot_be_changed(minimal: Path):
    with pytest.raises(ValidationError, match="frozen"):
        load(minimal).data.seed = 3  # pyright: ignore[reportAttributeAccessIssue]


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.just("${a.b}"),
)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=2), max_leaves=5)  # fmt: skip


@given(
    passed=st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=6), values, max_size=3),
    env=st.dictionaries(st.from_regex(r"[A-Z_]{1,6}", fullmatch=True), st.text(max_size=12), max_size=2),
    lr=st.floats(min_value=0, max_value=1),
    steps=st.integers(1, 10**6),
    path=st.text("abc/. $\\{}:#'\"-", min_size=1, max_size=8),
)
def test_dump_is_read_back_to_an_equal_configuration(
    passed: dict[str, object], env: dict[str, str], lr: float, steps: int, path: str
):
    with tempfile.TemporaryDirectory() as folder:
        run = minimal_yaml(Path(folder))
        fields = load(run).model_dump()
        fields["actor"] |= {"transformer_config": passed, "optimizer": {"lr": lr}}
        fields["cluster"] |= {"env": env}
        fields["trainer"] |= {"total_steps": steps, "output_dir": path}
        config = Config.model_validate(fields)
        run.write_text(dump(config), encoding="utf-8", newline="")
        assert load(run) == config
