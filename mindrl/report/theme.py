"""Colours and style sheet of the report, light and dark.

Figures are drawn in stand-in colours, which `figures.py` replaces by the style sheet's variables: one picture
follows the reader's light or dark setting.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Colour:
    """One colour of the style sheet."""

    stand_in: str
    """What figures are drawn with; no other colour of a figure has this value."""
    light: str
    dark: str


COLOURS = {
    "blue": Colour("#fa0001", "#2a6fbb", "#6fabea"),
    "orange": Colour("#fa0002", "#d4761b", "#eaa65a"),
    "green": Colour("#fa0003", "#2c8c5a", "#5fc08c"),
    "purple": Colour("#fa0004", "#7c5ab8", "#ad92e3"),
    "teal": Colour("#fa0005", "#1b8793", "#5ac3cd"),
    "red": Colour("#fa0006", "#c23b30", "#ef8279"),
    "grey": Colour("#fa0007", "#9aa3af", "#7b8593"),
    "ink": Colour("#fa0008", "#1c2430", "#e4e8ee"),
    "muted": Colour("#fa0009", "#687385", "#97a2b2"),
    "line": Colour("#fa000a", "#e3e7ec", "#2a323e"),
    "card": Colour("#fa000b", "#ffffff", "#171d26"),
    "page": Colour("#fa000c", "#f5f6f8", "#0e1218"),
}


def _variables(shade: str) -> str:
    return " ".join(f"--{name}: {getattr(colour, shade)};" for name, colour in COLOURS.items())


STYLE_SHEET = f"""
:root {{ color-scheme: light dark; {_variables("light")} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables("dark")} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }}
main {{ max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }}
h1 {{ font-size: 26px; font-weight: 650; letter-spacing: -0.01em; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 17px; font-weight: 650; margin: 40px 0 14px; }}
h3 {{ font-size: 15px; font-weight: 600; margin: 0; }}
p {{ margin: 0; }}
.muted, figcaption {{ color: var(--muted); font-size: 13px; }}
.head {{ display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 14px; }}
.pill {{ font-size: 12px; font-weight: 600; padding: 2px 10px; border-radius: 99px; border: 1px solid currentColor; }}
.done {{ color: var(--green); }} .open {{ color: var(--orange); }} .bad {{ color: var(--red); }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 12px; margin-top: 22px; }} .tile {{ flex: 1 0 auto; }}
.tile, figure, .card {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px; }}
.tile {{ padding: 12px 16px 14px; }}
.tile b {{ display: block; font-size: 19px; font-weight: 620; line-height: 1.3; font-variant-numeric: tabular-nums;
  white-space: nowrap; }}
.tile i {{ font-style: normal; font-weight: 400; color: var(--muted); padding: 0 3px; }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 370px), 1fr)); gap: 14px; }}
figure {{ margin: 0; padding: 14px 16px 10px; display: flex; flex-direction: column; }}
figcaption {{ min-height: 20px; line-height: 1.35; margin-top: 2px; }}
figure svg {{ width: 100%; height: auto; display: block; margin-top: auto; padding-top: 6px; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12.5px; margin-top: 6px;
  font-variant-numeric: tabular-nums; }}
.dot {{ display: inline-block; width: 9px; height: 9px; border-radius: 3px; margin-right: 6px; }}
.dash {{ display: inline-block; width: 14px; border-top: 2px dashed var(--red); margin-right: 6px; vertical-align: 4px; }}
.notes {{ margin: 18px 0 0; padding: 12px 18px 12px 34px; border-left: 3px solid var(--orange); }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px;
  align-items: start; }}
.card {{ padding: 14px 16px; min-width: 0; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; font-weight: 600; color: var(--muted); font-size: 12.5px; }}
th, td {{ padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }}
tr:last-child td {{ border-bottom: 0; }}
.number {{ text-align: right; white-space: nowrap; }}
pre, code, .text {{ font: 12.5px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
pre {{ margin: 0; overflow-x: auto; tab-size: 2; }}
.text {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.sample {{ border-top: 1px solid var(--line); padding: 12px 0 10px; }}
.sample:first-of-type {{ border-top: 0; }}
.sample .text {{ display: block; }}
.sample .prompt {{ color: var(--muted); max-height: 9.5em; overflow-y: auto; }}
.facts {{ display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12.5px; color: var(--muted); margin-top: 4px; }}
.facts b {{ font-weight: 650; }}
details {{ margin-top: 14px; }} details.card {{ padding: 12px 16px; }}
summary {{ cursor: pointer; font-weight: 600; }}
details > :not(summary) {{ margin-top: 12px; }}
@media print {{ body {{ background: none; }} figure, .tile, .card {{ break-inside: avoid; }} }}
"""
