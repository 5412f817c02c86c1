"""Does everything that we use of torch_npu, vLLM and vllm-ascend exist in the production set for Ascend?

    python -m tests.production [--wheels FOLDER] [--machine x86_64|aarch64] [--all]

Downloads the wheels of requirements/npu-production.txt (350 MB; kept in the folder), reads them without installing or
importing anything, and holds every name and every call in our source against them. Exit codes: 0 all there, 1 not.
"""

import argparse
import platform
import sys
from pathlib import Path

from tests.production.check import check, check_environment
from tests.production.uses import ROOT, all_uses
from tests.production.wheels import Packages, download

NAMES = ("torch-npu", "vllm", "vllm-ascend")


def requirements() -> list[str]:
    """`name==version` of the packages that are looked into."""
    lines = (ROOT / "requirements" / "npu-production.txt").read_text().splitlines()
    return [line for line in lines if line.split("==")[0] in NAMES]


def main() -> int:
    """Report; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheels", type=Path, default=ROOT / "outputs" / "production-wheels")
    parser.add_argument("--machine", default=platform.machine())
    parser.add_argument("--all", action="store_true", help="what is in order, too")
    options = parser.parse_args()
    options.wheels.mkdir(parents=True, exist_ok=True)
    packages = Packages([download(each, options.wheels, options.machine) for each in requirements()])
    verdicts = check(all_uses(), packages) + check_environment(packages)
    for verdict in verdicts:
        if options.all or verdict.problem:
            print(f"{verdict.use.where}: {verdict.use.name} {verdict.problem or 'is there'}")
    wrong = sum(verdict.problem is not None for verdict in verdicts)
    print(
        f"{', '.join(path.name for path in packages.wheels)}: {len(verdicts)} uses, {wrong} in want of something"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
