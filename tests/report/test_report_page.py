"""The page: complete, self-contained, escaped, and there for broken runs as well."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from example_run import metrics_at, write_run, write_samples_file

from mindrl.cli.main import main
from mindrl.config.trainer import LoggingConfig
from mindrl.report.page import render, write_report
from mindrl.report.run_files import read_run
from mindrl.trainer.metrics import MetricLog

PICTURES = (
    "Reward",
    "Accuracy",
    "Response length",
    "KL divergence",
    "Entropy",
    "Gradient norm",
    "Train / rollout gap",
    "Step time",
    "Throughput",
    "Learning rate",
)


class References(HTMLParser):
    """Everything a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "img", "base"):
            self.found.append(tag)
        for name, value in attrs:
            outside = name in ("src", "srcset") or (
                name in ("href", "xlink:href") and not (value or "").startswith("#")
            )
            if outside or name.startswith("on"):
                self.found.append(f"{tag} {name}={value}")


def figures_of(page: str) -> dict[str, str]:
    return {
        re.search(r"<h3>(.*?)</h3>", figure).group(1): figure  # type: ignore[union-attr]
        for figure in re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    }


def test_the_page_shows_every_curve_of_a_run(run_dir: Path) -> None:
    figures = figures_of(write_report(run_dir).read_text())
    assert set(PICTURES) <= set(figures)
    for figure in figures.values():
        svg = figure[figure.index("<svg") : figure.index("</svg>") + len("</svg>")]
        root = ET.fromstring(svg)
        assert len(root.findall(".//{http://www.w3.org/2000/svg}path")) > 2


def test_the_page_needs_nothing_but_itself(run_dir: Path) -> None:
    page = render(read_run(run_dir))
    references = References()
    references.feed(page)
    assert references.found == []
    assert "@import" not in page
    assert re.findall(r"url\((?!#)[^)]*\)", page) == []


def test_pictures_take_all_their_colours_from_the_style_sheet(run_dir: Path) -> None:
    for title, figure in figures_of(render(read_run(run_dir))).items():
        assert set(re.findall(r"#[0-9a-fA-F]{6}\b", figure)) == set(), title


def test_ids_are_unique_so_that_pictures_do_not_clip_each_other(run_dir: Path) -> None:
    page = render(read_run(run_dir))
    clips = re.findall(r'<clipPath id="([^"]+)"', page)
    assert len(clips) == len(set(clips))


def test_the_same_run_gives_the_same_page(run_dir: Path) -> None:
    assert render(read_run(run_dir)) == render(read_run(run_dir))


def test_the_stop_threshold_is_drawn_into_the_gap(run_dir: Path) -> None:
    figure = figures_of(render(read_run(run_dir)))["Train / rollout gap"]
    assert 'stop <span class="muted">1e-4' in figure
    assert "stroke: var(--red)" in figure


def test_responses_before_and_after_stand_side_by_side(run_dir: Path) -> None:
    page = render(read_run(run_dir))
    assert page.index("9999") < page.index("Step 60") < page.index("reward 1</b>")
    assert "half-way answer" not in page


def test_text_of_the_model_is_escaped_everywhere(run_dir: Path) -> None:
    hostile = "<script>alert('&')</script>"
    write_samples_file(run_dir, 60, hostile, 0.0)
    (run_dir / "hal.txt").write_text(hostile)
    (run_dir / "config.yaml").write_text(f'model: {{path: "{hostile}"}}')
    answer = {"uid": "u", "prompt": hostile, "response": hostile, "ground_truth": hostile, "score": 0.0}
    results = [{"model": hostile, "overall": {"pass_at_1": 0.5}, "answers": [answer]}] * 2
    (run_dir / "eval.json").write_text(json.dumps({"results": results}))
    page = render(read_run(run_dir))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_evaluated_models_are_compared_prompt_by_prompt(run_dir: Path) -> None:
    def result(model: str, response: str, score: float) -> dict[str, object]:
        answer = {
            "uid": "u",
            "prompt": "sort 21: ",
            "response": response,
            "ground_truth": "12",
            "score": score,
        }
        return {"model": model, "overall": {"num_prompts": 1, "pass_at_1": score}, "answers": [answer]}

    content = {"results": [result("start", "not this", 0.0), result("end", "12", 1.0)]}
    (run_dir / "eval.json").write_text(json.dumps(content))
    page = render(read_run(run_dir))
    assert page.index("not this") > page.index("The same prompts before and after")
    assert "pass@1 1" in page


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "hal.txt", "summary.json", "samples"])
def test_a_run_without_one_of_its_files_has_a_page_that_names_it(run_dir: Path, name: str) -> None:
    path = run_dir / name
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
    else:
        path.unlink()
    page = render(read_run(run_dir))
    assert f"{name} is missing" in page or f"{name}/ holds no" in page


def test_a_run_killed_while_writing_keeps_its_whole_steps(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "reward/me')
    run = read_run(run_dir)
    assert run.steps[-1] == 60
    page = render(run)
    assert "1 unreadable line" in page
    assert "unfinished" in page


def test_a_run_of_one_step_has_a_page(tmp_path: Path) -> None:
    with MetricLog(tmp_path, LoggingConfig(tensorboard=False), "run", {}) as log:
        log.write(1, metrics_at(1))
    assert "Entropy" in figures_of(render(read_run(tmp_path)))


def test_values_that_are_not_finite_are_named_with_their_steps(run_dir: Path) -> None:
    with MetricLog(run_dir, LoggingConfig(tensorboard=False), "run", {}) as log:
        log.write(61, metrics_at(61) | {"grad_norm": float("nan")})
    assert "grad_norm was not finite at step 61." in render(read_run(run_dir))


def test_a_step_that_a_resumed_run_repeats_counts_as_the_later_time(run_dir: Path) -> None:
    with MetricLog(run_dir, LoggingConfig(tensorboard=False), "run", {}) as log:
        log.write(60, {"entropy": 7.0})
    run = read_run(run_dir)
    assert len(run.steps) == 61
    assert run.series["entropy"][-1] == 7.0


def test_a_long_run_gives_a_page_of_bounded_size(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step} | metrics_at(step)) for step in range(1, 6001)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert len(render(read_run(tmp_path))) < 1_000_000


def test_comparison_shows_both_runs_and_the_settings_that_differ(run_dir: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other")
    (other / "config.yaml").write_text((run_dir / "config.yaml").read_text().replace("seed: 0", "seed: 7"))
    page = render(read_run(run_dir), [read_run(other)])
    assert "trainer.seed" in page
    assert "rollout.n_samples" not in re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert 'other <span class="muted">' in figures_of(page)["Reward"]


def test_the_command_writes_the_page_and_prints_the_figures(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run_dir), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(run_dir / "report.html")
    (figures,) = printed["runs"]
    assert (figures["steps"], figures["reward_last"], figures["eval_before"]) == (60, 0.86, 0.25)
    assert figures["eval_after"] == pytest.approx(0.95)
    assert (run_dir / "report.html").read_text().startswith("<!doctype html>")


def test_the_terminal_view_writes_nothing(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(run_dir.rglob("*"))
    assert main(["report", str(run_dir), "--terminal"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"reward +▁.*█", shown)
    assert "1 min" not in shown
    assert "75.0 s" in shown
    assert sorted(run_dir.rglob("*")) == before


def test_a_directory_that_holds_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ['{"step": 1e999}', '{"step": 99999999999999999999999}', "[" * 100_000])
def test_a_metrics_line_that_holds_no_step_is_named_and_left_out(run_dir: Path, line: str) -> None:
    before = read_run(run_dir)
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    after = read_run(run_dir)
    assert list(after.steps) == list(before.steps)
    assert any("unreadable line" in problem for problem in after.problems)


def test_the_page_never_replaces_a_file_of_the_run(run_dir: Path) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    assert main(["report", str(run_dir), "--output", str(run_dir / "metrics.jsonl")]) == 2
    assert (run_dir / "metrics.jsonl").read_bytes() == before
