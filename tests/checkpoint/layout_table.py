"""The proof's table in docs/conversion.md, measured: `python -m tests.checkpoint.layout_table [MEASURED]`.

MEASURED is a file of one JSON object a cell (default: a temporary one). What is there already is not measured again, so
that an interrupted run goes on. Ends with 1 where a cell is off by more than the tolerance."""

import datetime
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.checkpoint.layout_cells import LAYOUTS, MODELS, TOLERANCE, Case, Cell, grid, measure, write_case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conversion.md"
START, END = "<!-- layouts: measured by tests/checkpoint/layout_table.py -->\n", "<!-- /layouts -->"
FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe", "deepseek_v3", "moonlight")

Measured = dict[str, tuple[float, float]]
"""Errors of logits and of gradients by `str(cell)`."""


def main(measured_file: Path) -> int:
    """Measure what is missing, write the table."""
    measured = read(measured_file)
    cells = list(grid())
    with tempfile.TemporaryDirectory() as folder, measured_file.open("a", encoding="utf-8") as file:
        written: dict[Case, Path] = {}
        for number, cell in enumerate(cells, 1):
            if str(cell) in measured:
                continue
            if cell.case not in written:
                written[cell.case] = write_case(Path(folder) / str(cell.case), cell.case)
            errors = measure(written[cell.case], cell)
            measured[str(cell)] = errors.logits, errors.gradients
            row = {"cell": str(cell), "logits": errors.logits, "gradients": errors.gradients}
            print(json.dumps(row | {"worst": errors.worst}), file=file, flush=True)
            print(f"{number}/{len(cells)} {cell}: {errors}", file=sys.stderr, flush=True)
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    today = datetime.datetime.now(tz=datetime.UTC).date()
    text = f"Measured on {today}, {len(cells)} cells.\n\n{table(cells, measured)}\n"
    PAGE.write_text(before + START + text + END + rest.split(END)[1], encoding="utf-8")
    return int(any(max(measured[str(cell)]) >= TOLERANCE for cell in cells))


def read(path: Path) -> Measured:
    """What was measured before."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["cell"]: (row["logits"], row["gradients"]) for row in rows}


def table(cells: list[Cell], measured: Measured) -> str:
    """A row a layout and kind of layers, a column a family: the worst of all its cases."""
    worst: dict[tuple[str, str], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for cell in cells:
        key = row_name(cell.ranks, cell.layout, cell.layers), cell.case.family
        worst[key] = tuple(map(max, worst[key], measured[str(cell)]))
    header = ["ranks | layout | layers", *FAMILIES]
    lines = [f"| {' | '.join(header)} |", "|---" * (len(FAMILIES) + 3) + "|"]
    for layers in MODELS:
        for ranks, layout in LAYOUTS:
            name = row_name(ranks, layout, layers)
            found = [worst.get((name, family)) for family in FAMILIES]
            if any(found):
                errors = ["" if pair is None else f"{pair[0]:.1e} / {pair[1]:.1e}" for pair in found]
                lines.append(f"| {name} | {' | '.join(errors)} |")
    return "\n".join(lines)


def row_name(ranks: int, layout: object, layers: str) -> str:
    """The first three columns."""
    return f"{ranks} | {layout} | {layers}"


if __name__ == "__main__":
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        raise SystemExit(main(Path(given[0] if given else f"{temporary}/measured.jsonl")))
