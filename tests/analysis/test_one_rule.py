"""Whatever is drawn at random: headline, tables, files and plot say the same of every strategy."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ray_kd.analysis import plot_comparison
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.comparison_table import VERDICT, as_csv, markdown, rows
from ray_kd.analysis.headline import DASH, headline
from ray_kd.analysis.notes import notes
from ray_kd.analysis.pipeline import Analysis, analyze
from ray_kd.analysis.plot_style import style
from ray_kd.analysis.verdicts import sweep_verdicts
from ray_kd.statistics.looks import Verdict
from tests.analysis.make_records import Strategy, make_records
from tests.helpers import daily

CELLS = ("alone", "one", "two", "three", "four", "five")
STATES = ("failed", "stopped", "blocked", "unfinished", "running", "missing")
CROWNS = re.compile(r"\b(best|significant\w*|winner|wins|top performer|superior)\b", re.IGNORECASE)
INNOCENT = re.compile(r"best on validation|test top-1(<br>|\s+)best|best: test|[^.]*best true mean[^.]*\.")
"""Where "best" is of a run's own epochs; and the set that may be best, which is a verdict of its own."""


@pytest.fixture(params=daily(range(12), first=4))
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Analysis:
    """A sweep drawn at random: effects, noise, skew, looks, margin, and trials that did not finish."""
    draw = np.random.default_rng(request.param)
    seeds = int(draw.integers(2, 9))
    looks = [None, (seeds,), (max(2, seeds // 2), seeds)][draw.integers(3)]
    looks = (seeds,) if looks and len(set(looks)) < len(looks) else looks
    noise = 0.01 * draw.exponential(size=(len(CELLS), seeds)) if draw.random() < 0.5 else None
    noise = 0.01 * draw.standard_normal((len(CELLS), seeds)) if noise is None else noise
    effects = draw.choice([0.0, 0.0, 0.001, 0.03, -0.05], size=len(CELLS))
    values = {
        (cell, seed): 0.9 + float(effects[index] * (index > 0) + noise[index, seed] * draw.choice([0.1, 1.0]))
        for index, cell in enumerate(CELLS)
        for seed in range(seeds)
    }
    troubled = draw.choice(len(CELLS) * seeds, size=int(draw.integers(0, 4)), replace=False)
    statuses = {(CELLS[t // seeds], int(t % seeds)): str(draw.choice(STATES)) for t in troubled}
    strategies = {cell: Strategy(("soft_target",) if cell != "alone" else ()) for cell in CELLS}
    root = make_records(
        tmp_path,
        strategies=strategies,
        values=values,
        statuses=statuses,
        seeds=seeds,
        epochs=4,
        baseline="alone",
        control=False,
        looks=looks,
        margin=None if looks is None else 1.0,
    )
    return analyze(root, only=["comparison"])


def drawn(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Verdict at the right of each row of the figure, and the look of its marker."""
    figures: list[Figure] = []
    markers: dict[int, object] = {}
    monkeypatch.setattr(plot_comparison, "render", lambda figure, *_: figures.append(figure))
    draw = plot_comparison.Look.draw

    def note(look: plot_comparison.Look, axes: Axes, x: float, y: float) -> None:
        markers[int(y)] = look
        draw(look, axes, x, y)

    monkeypatch.setattr(plot_comparison.Look, "draw", note)
    with style():
        plot_comparison.comparison_picture(comparison)
    (figure,) = figures
    labels = [label.get_text() for right in figure.axes[0].child_axes for label in right.get_yticklabels()]
    by_look = {id(look): verdict.value for verdict, look in plot_comparison.LOOKS.items()}
    by_look[id(plot_comparison.UNSEEN)] = Verdict.OPEN.value
    return [(label, by_look.get(id(markers.get(row)), "")) for row, label in enumerate(labels)]


def of_verdict(text: str) -> str:
    """The verdict in a text of the figure."""
    return next((verdict.value for verdict in Verdict if verdict.value in text), "")


def test_all_that_people_read_says_the_same(found: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_the_same(found, monkeypatch)


def test_without_a_baseline_nobody_says_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {("alone", seed): "failed" for seed in range(3)}
    strategies = {cell: Strategy() for cell in CELLS}
    root = make_records(tmp_path, strategies=strategies, statuses=lost, seeds=3, epochs=4, baseline="alone")
    found = analyze(root, only=["comparison"])
    assert found.comparison.baseline is None
    assert_the_same(found, monkeypatch)


def assert_the_same(found: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table, Markdown, CSV, Parquet, figure, ``ray-kd status`` and headline have the same verdicts."""
    comparison = found.comparison
    truth = {cell.name: "" if cell.versus is None else cell.versus.verdict.value for cell in comparison.cells}
    table = {row.entries[0]: row.entries[VERDICT].replace(DASH, "") for row in rows(comparison)}
    assert table == truth
    lines = [line.split(" | ") for line in markdown(comparison).splitlines() if line.startswith("| ")]
    assert {line[0][2:]: line[VERDICT].strip("*").replace(DASH, "") for line in lines[2:]} == truth
    entries = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert {entry["strategy"]: entry["verdict"] for entry in entries} == truth
    frame = pd.read_parquet(found.files["tables/comparison.parquet"])
    assert dict(zip(frame["strategy"], frame["verdict"].fillna(""), strict=True)) == truth
    figure = drawn(comparison, monkeypatch)
    if comparison.baseline is None:
        assert not any(truth.values())
        assert not figure
        assert headline(comparison).startswith("No strategy was compared with another")
        return
    counted = sweep_verdicts(found.records)
    assert {name: counted.of(name).verdict.value for name in counted.design.current} == {
        name: verdict for name, verdict in truth.items() if verdict
    }
    for (name, verdict), (label, marker) in zip(truth.items(), figure, strict=True):
        assert of_verdict(label) == verdict, name
        assert marker in (verdict, "")  # one off the scale, or without a value, has an arrow or nothing
    assert_headline(headline(comparison), truth)


def assert_headline(said: str, truth: dict[str, str]) -> None:
    """The sentence that names a strategy has its verdict."""
    named = {name for name, verdict in truth.items() if verdict}
    if said.startswith("No verdict yet"):
        assert {truth[name] for name in named} == {"open"}
        return
    words = {"better": "better", "worse": "worse", "the same": "the same", "open": "open"}
    words["no verdict"] = "without a verdict"
    for name in named:
        (sentence,) = [part for part in said.split(". ") if f"“{name}”" in part]
        assert words[truth[name]] in sentence


def test_a_verdict_is_what_its_interval_says(found: Analysis) -> None:
    for entry in csv.DictReader(io.StringIO(Path(found.files["table.csv"]).read_text())):
        low, high = (float(entry[f"difference_{end}"] or "nan") for end in ("low", "high"))
        margin = float(entry["margin"] or "nan")
        verdict = entry["verdict"]
        if verdict in ("better", "worse"):
            assert low > 0 if verdict == "better" else high < 0
            assert float(entry["p"]) < 0.05
        elif verdict == "the same":
            assert -margin < low < high < margin
        elif verdict == "open" and not math.isnan(low):
            assert low <= 0 <= high
            assert not (-margin < low and high < margin) or low == high == 0
            assert float(entry["p"]) >= 0.05
        else:
            assert math.isnan(low)
            assert entry["p"] in ("", "1.0")


def test_no_word_crowns_a_strategy_where_nothing_is_decided(found: Analysis) -> None:
    comparison = found.comparison
    if any(cell.versus and cell.versus.verdict.decided for cell in comparison.cells):
        return
    for text in (headline(comparison), markdown(comparison), *notes(comparison)):
        assert not CROWNS.search(INNOCENT.sub("", text)), text
        assert "**" not in text
