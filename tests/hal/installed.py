"""Little packages that announce devices and kernels, laid out as pip would."""

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, package: str, modules: Mapping[str, str], entry_points: str) -> None:
    """Write the modules and the metadata of `package`; `folder` goes on the import path."""
    facts = folder / f"{package}-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(entry_points)
    for name, text in modules.items():
        (folder / name).write_text(text)
