"""`mindrl eval` end to end: real models, a real engine, real scoring processes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mindrl.cli.main import main
from mindrl.evaluation.request import EvaluationRequest, by_architecture, check_model
from mindrl.evaluation.standalone import evaluate_models


def request_for(scene: Any, **changes: Any) -> EvaluationRequest:
    request = EvaluationRequest(
        models=(scene.first,),
        dataset=scene.dataset,
        rewards=("exact_match",),
        engine="hf",
        max_response_length=4,
        accelerator="cpu",
    )
    return replace(request, **changes)


def test_greedy_answers_are_those_of_transformers_and_earn_their_scores(scene: Any) -> None:
    (evaluated,) = evaluate_models(request_for(scene))
    assert [answer.response for answer in evaluated.evaluation.answers] == scene.truths
    result = evaluated.evaluation.result
    assert result.overall.pass_at == {1: 1.0}
    assert sorted(result.by_source) == ["even", "odd"]
    assert (result.overall.num_prompts, result.by_source["odd"].num_prompts) == (6, 3)
    assert 0 < result.overall.response_length <= 4


def test_models_that_share_an_engine_answer_as_if_alone(scene: Any) -> None:
    together = evaluate_models(request_for(scene, models=(scene.first, scene.second, scene.first)))
    (alone,) = evaluate_models(request_for(scene, models=(scene.second,)))
    assert together[1].evaluation.answers[0].response != together[0].evaluation.answers[0].response
    assert [a.response for a in together[1].evaluation.answers] == [
        a.response for a in alone.evaluation.answers
    ]
    assert together[2].evaluation.result == together[0].evaluation.result


def test_sampling_depends_on_the_seed_only(scene: Any) -> None:
    sampled = request_for(scene, temperature=1.0, n_samples=2, limit=3)

    def responses(request: EvaluationRequest) -> list[str]:
        (evaluated,) = evaluate_models(request)
        return [answer.response for answer in evaluated.evaluation.answers]

    first = responses(sampled)
    assert len(first) == 6
    assert responses(sampled) == first
    assert responses(replace(sampled, seed=1)) != first


def test_one_engine_serves_neighbours_with_equal_config(scene: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(scene.second, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    from mindrl.data.prompts import load_prompts

    request = request_for(scene, models=(scene.first, scene.second, other))
    dataset = load_prompts(scene.dataset)
    groups = by_architecture([check_model(request, dataset, model) for model in request.models])
    assert [[setup.hf_dir for setup in group] for group in groups] == [[scene.first, scene.second], [other]]


def test_the_command_prints_figures_and_writes_the_file(
    scene: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "eval.json"
    arguments = ["eval", str(scene.first), str(scene.second), "--dataset", str(scene.dataset)]
    arguments += ["--reward", "exact_match", "--engine", "hf", "--accelerator", "cpu"]
    arguments += ["--max-response-length", "4", "--output", str(output), "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed[str(scene.first)]["eval/all/pass_at_1"] == 1.0
    written = json.loads(output.read_text())
    assert [result["model"] for result in written["results"]] == [str(scene.first), str(scene.second)]
    assert written["results"][0]["overall"]["pass_at_1"] == 1.0
    assert written["results"][0]["answers"][0]["response"] == scene.truths[0]

    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err


def without_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def with_another_tokenizer(directory: Path) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = dict(reversed(list(content["model"]["vocab"].items())[:-1]))
    path.write_text(json.dumps(content))


def without_config(directory: Path) -> None:
    (directory / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_config, "holds no config.json"),
        (without_weights, "no weights to load"),
        (with_another_tokenizer, "tokenizer"),
    ],
)
def test_a_model_that_cannot_be_evaluated_is_refused(
    damage: Callable[[Path], None],
    message: str,
    scene: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(scene.first, tmp_path / "model")
    damage(tmp_path / "model")
    arguments = ["eval", str(tmp_path / "model"), "--dataset", str(scene.dataset), "--reward", "exact_match"]
    assert main([*arguments, "--accelerator", "cpu"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-samples", "4"], "equal responses"),
        (["--n-samples", "0"], "at least 1"),
        (["--max-response-length", "4096"], "does not fit"),
        (["--reward", "exact_mach"], "exact_match"),
        (["--accelerator", "abacus"], "abacus"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(
    options: list[str], message: str, scene: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", str(scene.first), "--dataset", str(scene.dataset), "--reward", "boxed_format"]
    assert main([*arguments, *options]) == 2
    assert message in capsys.readouterr().err


def test_help_imports_no_heavy_package() -> None:
    import subprocess
    import sys

    code = (
        "import sys, mindrl.cli.main as m\n"
        "for c in ('eval', 'report'):\n"
        "    try: m.main([c, '--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout
