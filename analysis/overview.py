"""The demo's table -> the picture that explains ray-kd: docs/images/overview.svg and overview_narrow.svg.

    python analysis/overview.py

It shows the paths from teacher to student, the strategies of sweeps/digits.yaml with the seeds that each
got, and their differences to the student alone as docs/results/demo/1.md has them. The narrow one is for
phones. Both follow the reader's choice of light or dark.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python looks in its folder alone

from analysis.script import run
from ray_kd.analysis.headline import counted
from ray_kd.config.errors import UserError
from ray_kd.config.names import html
from ray_kd.config.screen import say

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "results" / "demo" / "1.md"
SWEEP = ROOT / "sweeps" / "digits.yaml"
FOCUS = 20.0
"""A difference of more points than this lies off the scale: an arrow at its side."""
STEP = 26
"""Height of a strategy's row."""
STYLE = """
svg { --paper: #ffffff; --ink: #1d1f23; --soft: #5b6068; --line: #dcdfe4; --panel: #eef0f3;
  --better: #00734f; --worse: #b34600; --same: #8a3a75;
  --path-0: #0072b2; --path-1: #d08700; --path-2: #b0568a; --path-3: #2f9bd6 }
@media (prefers-color-scheme: dark) {
svg { --paper: #16181c; --ink: #e6e8eb; --soft: #a2a8b1; --line: #353a42; --panel: #262b33;
  --better: #4fd0a5; --worse: #ff9455; --same: #e6a3cf;
  --path-0: #5aa9e6; --path-1: #e6a52e; --path-2: #e08cba; --path-3: #8fd3ff } }
text { fill: var(--ink);
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
.head { font-weight: 700; font-size: 15px } .soft { fill: var(--soft) } .end { text-anchor: end }
.middle { text-anchor: middle } .small { font-size: 12px }
.paper { fill: var(--paper); stroke: var(--line) } .panel { fill: var(--panel); stroke: var(--soft) }
.seed { fill: var(--soft) } .none { fill: none; stroke: var(--line); stroke-width: 1 }
.rule { stroke: var(--line) } .zero { stroke: var(--ink); stroke-dasharray: 5 3 } circle { stroke-width: 2 }
.better { fill: var(--better); stroke: var(--better) } .worse { fill: var(--worse); stroke: var(--worse) }
.same { fill: var(--same); stroke: var(--same) } .open { fill: var(--paper); stroke: var(--soft) }
text.better, text.worse, text.same { font-weight: 700; stroke: none }
text.open { fill: var(--soft); stroke: none }
.path0 { --path: var(--path-0) } .path1 { --path: var(--path-1) } .path2 { --path: var(--path-2) }
.path3 { --path: var(--path-3) } .path { fill: none; stroke: var(--path); stroke-width: 3 }
.dot { fill: var(--path) } .knob { fill: var(--paper); stroke: var(--path); stroke-width: 2 }
"""
"""The colours are those of the reports (ray_kd/analysis/report_style.py)."""


@dataclass(frozen=True)
class Row:
    """A strategy of the demo."""

    name: str
    paths: tuple[int, ...]
    """Numbers of the paths that it combines."""
    seeds: int
    mean: float | None
    """Difference to the baseline, whose own is None; in points, as the ends of its interval."""
    low: float = 0.0
    high: float = 0.0
    verdict: str = "baseline"


def read_rows(table: Path = TABLE, sweep: Path = SWEEP) -> tuple[list[str], list[Row]]:
    """The names of the paths, and the strategies in the table's order.

    Raises:
        UserError: the table has no such rows, or a strategy that the sweep does not have.
    """
    cells = yaml.safe_load(sweep.read_text(encoding="utf-8"))["cells"]
    lines = [re.split(r" *\| *", line)[1:-1] for line in table.read_text(encoding="utf-8").splitlines()]
    heads = next((line for line in lines if line[:1] == ["strategy"]), [])
    wanted = ("difference<br>points", "verdict", "n")
    if not set(wanted) <= set(heads):
        raise UserError(
            f"{table}: expected a table with the columns strategy, {', '.join(wanted)}; got {heads}."
        )
    difference, verdict, seeds = (heads.index(head) for head in wanted)
    single = {paths[0]["name"]: name for name, cell in cells.items() if len(paths := cell["paths"]) == 1}
    order, rows = list(single), []
    for line in lines[lines.index(heads) + 2 :]:
        if len(line) != len(heads):
            break
        if line[0] not in cells:
            raise UserError(f"{table}: strategy '{line[0]}' is none of {sweep}: {', '.join(cells)}.")
        used = (path["name"] if isinstance(path, dict) else path for path in cells[line[0]]["paths"])
        paths = tuple(order.index(path) for path in used)
        figures = re.findall(r"[+-][\d.]+", line[difference].replace("\N{MINUS SIGN}", "-"))
        if line[difference] == "baseline":
            rows.append(Row(line[0], paths, int(line[seeds]), None))
        elif len(figures) == 3:
            mean, low, high = map(float, figures)
            rows.append(Row(line[0], paths, int(line[seeds]), mean, low, high, line[verdict].strip("*")))
        else:
            raise UserError(f"{table}: '{line[0]}' has no interval: {line[difference]}.")
    return list(single.values()), rows


def answer(rows: list[Row]) -> str:
    """What the rows say, in a sentence."""
    verdicts = Counter(row.verdict for row in rows if row.mean is not None)
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    base = next(row.name for row in rows if row.mean is None)
    return f"Of {counted(verdicts.total(), 'strategy')}, compared with the {base}: {said}."


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{html(words)}</text>'


def line(x: float, y: float, to: tuple[float, float], kind: str, stroke: float = 1) -> str:
    return f'<path d="M{x:g} {y:g} L{to[0]:g} {to[1]:g}" class="{kind}" stroke-width="{stroke:g}"/>'


def box(x: float, y: float, size: tuple[float, float], radius: float, kind: str) -> str:
    width, height = size
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"'
    return f'<rect {place} class="{kind}"/>'


def circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{kind}"/>'


def heading(number: int, head: str, below: str) -> list[str]:
    return [text(0, 0, f"{number}  {head}", "head"), text(0, 19, below, "soft")]


def paths_panel(names: list[str]) -> list[str]:
    """Teacher and student with the paths between them; 300 wide, 250 high."""
    lines = heading(1, "Many paths to help", "each with a weight of its own")
    for x, y, width, height, name in ((0, 44, 66, 172, "teacher"), (246, 86, 44, 88, "student")):
        lines.append(box(x, y, (width, height), 6, "panel"))
        for stage in range(3):
            place = y + height * (stage + 0.5) / 3 - height / 12
            lines.append(box(x + 8, place, (width - 16, height / 6), 3, "seed"))
        lines.append(text(x + width / 2, y + height + 20, name, "middle"))
    for number, name in enumerate(names):
        start, end = 64 + 44 * number, 100 + 20 * number
        lines += [
            f'<g class="path{number}">',
            f'<path d="M66 {start} C 120 {start}, 190 {end}, 246 {end}" class="path"/>',
            circle(226, end - (end - start) * 0.02, 6, "knob"),
            "</g>",
            text(76, start - 8 if start <= end else start + 17, name, "small"),
        ]
    return lines


def seeds_panel(rows: list[Row], size: float) -> list[str]:
    """A square for each seed that a strategy got; the squares' columns are the seeds."""
    most = max(row.seeds for row in rows)
    lines = [text((most * (size + 3) - 3) / 2, -18, "seeds", "middle small soft")]
    for number, row in enumerate(rows):
        for seed in range(most):
            kind = "seed" if seed < row.seeds else "none"
            lines.append(box(seed * (size + 3), number * STEP - size / 2, (size, size), 1.5, kind))
    return lines


def labels_panel(rows: list[Row], count: int, width: float) -> list[str]:
    """Each strategy's name, and a dot in the colour of each path that it combines."""
    lines = [text(width - 13 * (count + 1) / 2 + 5, -18, "paths", "middle small soft")]
    for number, row in enumerate(rows):
        lines.append(text(width - 13 * count - 6, number * STEP + 4.5, row.name, "end"))
        for path in range(count):
            x, y = width - 13 * (count - path) + 5, number * STEP
            used = path in row.paths
            lines.append(circle(x, y, 4.5, f"dot path{path}") if used else circle(x, y, 3, "none"))
    return lines


def answer_panel(rows: list[Row], width: float, wide: bool) -> list[str]:
    """The intervals of the differences; where there is room, the verdicts as words."""
    shown = [row for row in rows if row.mean is not None and abs(row.mean) <= FOCUS]
    low = 5 * math.floor(min(0.0, *(row.low for row in shown)) / 5)
    high = 5 * math.ceil(max(0.0, *(row.high for row in shown)) / 5)
    bottom = len(rows) * STEP - 10

    def place(points: float) -> float:
        return width * (points - low) / (high - low)

    below = "difference in test top-1, points" if wide else "points of top-1"
    lines = [text(width / 2, bottom + 34, below, "middle small soft")]
    for points in range(low, high + 1, 5):
        lines.append(line(place(points), -14, (place(points), bottom), "rule" if points else "zero"))
        if wide or points < high:
            lines.append(text(place(points), bottom + 16, signed(points), "middle small soft"))
    for number, row in enumerate(rows):
        y, kind = number * STEP, row.verdict.split()[-1]
        if row.mean is None:
            continue
        if row in shown:
            lines.append(line(place(row.low), y, (place(row.high), y), kind, 2.5))
            lines.append(circle(place(row.mean), y, 5, kind))
        elif row.mean < 0:
            lines.append(f'<path d="M0 {y} l10 -5 v10 z" class="{kind}"/>')
            lines.append(text(15, y + 4.5, signed(row.mean), kind))
        else:
            lines.append(f'<path d="M{width} {y} l-10 -5 v10 z" class="{kind}"/>')
            lines.append(text(width - 15, y + 4.5, signed(row.mean), f"{kind} end"))
        if wide:
            lines.append(text(width + 14, y + 4.5, row.verdict, kind))
    return lines


def signed(points: float) -> str:
    """A whole number of points with its sign."""
    return f"{points:+.0f}".replace("-", "\N{MINUS SIGN}") if points else "0"


def moved(x: float, y: float, lines: list[str]) -> list[str]:
    return [f'<g transform="translate({x:g} {y:g})">', *lines, "</g>"]


def drawing(wide: bool) -> str:
    """The picture as SVG: three panels side by side, or one below the other."""
    names, rows = read_rows()
    strategies = heading(2, "Every strategy, many seeds", "what is decided early gets no more")
    result = heading(3, "An answer you can defend", "intervals that hold together, at 95 %")
    if wide:
        width, height = 1080, 376
        lines = [
            *moved(24, 36, paths_panel(names)),
            *moved(372, 36, strategies),
            *moved(366, 98, labels_panel(rows, len(names), 176)),
            *moved(554, 98, seeds_panel(rows, 10)),
            *moved(748, 36, result),
            *moved(748, 98, answer_panel(rows, 240, wide=True)),
        ]
    else:
        width, height = 400, 704
        lines = [
            *moved(50, 34, paths_panel(names)),
            *moved(16, 316, strategies),
            *moved(16, 362, result),
            *moved(10, 426, labels_panel(rows, len(names), 172)),
            *moved(188, 426, seeds_panel(rows, 4)),
            *moved(278, 426, answer_panel(rows, 108, wide=False)),
        ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{html(answer(rows))}</title>",
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" class="paper"/>',
            *lines,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Write both pictures."""
    folder = ROOT / "docs" / "images"
    for name, wide in (("overview.svg", True), ("overview_narrow.svg", False)):
        (folder / name).write_text(drawing(wide), encoding="utf-8")
        say(folder / name)


if __name__ == "__main__":
    run(main)
