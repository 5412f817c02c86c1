"""`mindrl report`: what a run did, as a page or in the terminal."""

import argparse
import json
from pathlib import Path

from mindrl.errors import RequestError
from mindrl.files import require_path, require_place_for

SUMMARY = "show a run: curves, samples, comparison of runs"
EXAMPLE = """
mindrl report outputs/quickstart
mindrl report outputs/quickstart --compare outputs/quickstart-lr0 --terminal
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="run directory (trainer.output_dir)")
    parser.add_argument(
        "--compare",
        type=Path,
        action="append",
        default=[],
        metavar="OTHER_DIR",
        help="another run to show beside it; may be given several times",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the page goes (default: RUN_DIR/report.html)"
    )
    parser.add_argument("--terminal", action="store_true", help="show the run here; write no file")
    parser.add_argument("--json", action="store_true", help="print the key figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Exit code."""
    from mindrl.report.key_figures import key_figures
    from mindrl.report.run_files import read_run
    from mindrl.report.terminal import terminal_view

    for directory in (args.run_dir, *args.compare):
        require_path(directory, "run directory")
    if args.output:
        _check_output(args.output)
    runs = [read_run(directory) for directory in (args.run_dir, *args.compare)]
    path = None
    if not args.terminal:
        from mindrl.report.page import write_report

        path = write_report(args.run_dir, args.compare, args.output)
    if args.json:
        figures = [
            {
                "run_dir": str(r.directory),
                "finished": r.finished,
                "problems": r.problems,
                **key_figures(r).as_json(),
            }
            for r in runs
        ]
        print(json.dumps({"report": str(path) if path else None, "runs": figures}))
        return 0
    print(terminal_view(runs[0], runs[1:]))
    if path:
        print(f"\nreport: {path}")
    return 0


def _check_output(output: Path) -> None:
    """`RequestError` where the page could not be written, or would replace another kind of file."""
    require_place_for(output, "--output")
    if not output.parent.is_dir() or output.is_dir():
        raise RequestError(f"--output {output}: name a file in a directory that exists")
    if output.suffix not in (".html", ".htm") and output.exists():
        raise RequestError(f"--output {output} exists and is no page; name a file that ends in .html")
