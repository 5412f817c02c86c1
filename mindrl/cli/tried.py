"""The versions that were tried together, from the sets in requirements/."""

import re
from pathlib import Path

import mindrl

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)")


def tried_versions(name: str) -> dict[str, str]:
    """Version by package of the set `requirements/<name>.txt`, in a checkout or installed."""
    package = Path(mindrl.__file__).parent
    file = Path("requirements", f"{name}.txt")
    text = next(path for path in (package.parent / file, package / file) if path.is_file()).read_text()
    return dict(found.groups() for line in text.splitlines() if (found := PIN.match(line)))
