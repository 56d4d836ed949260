"""The figures: nothing cut, nothing hidden, one colour for each path, the same bytes each time."""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from ray_kd.analysis import plot_comparison, plot_paths
from ray_kd.analysis.comparison import Cell, Comparison, compare_cells
from ray_kd.analysis.pipeline import Analysis
from ray_kd.analysis.plot_style import style
from ray_kd.analysis.plots import draw
from ray_kd.analysis.records import Records, read_records
from ray_kd.statistics.intervals import Interval
from tests.analysis.make_records import STRATEGIES, Strategy, make_records
from tests.analysis.test_comparison import pick


def test_pictures_are_sharp_enough_for_paper(analysis: Analysis) -> None:
    for name in ("comparison", "weights", "losses"):
        data = Path(analysis.files[f"plots/{name}.png"]).read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert width == 1400  # seven inches at 200 dots
        assert height > 500
        svg = Path(analysis.files[f"plots/{name}.svg"]).read_text()
        assert "<svg" in svg
        assert not re.search(r'href="(?!#)', svg)


def odd_sweep(tmp_path: Path) -> Records:
    """Six strategies with long names, a baseline that failed, and one that has not begun."""
    pair = ("soft_target", "nst")
    cells = {
        f"paths=soft_target+nst, aggregation={kind}, k={k}": Strategy(pair, kind)
        for k in range(3)
        for kind in ("fixed", "adaptive")
    }
    first, second, *_ = cells
    statuses = {(first, 0): "missing", (first, 1): "missing", ("student alone", 0): "failed"}
    root = make_records(
        tmp_path,
        strategies={**cells, "student alone": Strategy()},
        statuses={**statuses, (second, 1): "stopped"},
        seeds=2,
        epochs=4,
        control=False,
    )
    return read_records(root, "digits")


def one_epoch(tmp_path: Path) -> Records:
    cells = {name: STRATEGIES[name] for name in ("student alone", "adaptive by layer")}
    root = make_records(tmp_path, strategies=cells, seeds=1, epochs=1, control=False)
    return read_records(root, "digits")


@pytest.mark.parametrize("make", ["usual", odd_sweep, one_epoch])
def test_no_text_is_cut_and_no_titles_overlap(
    make: Any, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = records if make == "usual" else make(tmp_path)
    figures: list[Figure] = []
    drawn: list[Text] = []
    draw_text = Text.draw

    def note(text: Text, renderer: Any) -> None:
        drawn.append(text)
        draw_text(text, renderer)

    monkeypatch.setattr(Text, "draw", note)
    monkeypatch.setattr(plot_comparison, "render", lambda figure, *_: figures.append(figure))
    monkeypatch.setattr(plot_paths, "render", lambda figure, *_: figures.append(figure))
    comparison = compare_cells(records)
    with style():
        plot_comparison.comparison_picture(comparison)
        plot_paths.weights_picture(records, comparison)
        plot_paths.losses_picture(records, comparison)
        assert len(figures) == (2 if make is one_epoch else 3)  # one epoch: no weight has moved
        for figure in figures:
            drawn.clear()
            figure.draw_without_rendering()
            assert len(drawn) > 5
            for text in drawn:
                if text.get_visible() and text.get_text().strip():
                    box = text.get_window_extent()
                    assert box.x0 >= -1, text
                    assert box.y0 >= -1, text
                    assert box.x1 <= figure.bbox.x1 + 1, text
                    assert box.y1 <= figure.bbox.y1 + 1, text
            titles = [axes.title for axes in figure.axes] + [axes._left_title for axes in figure.axes]  # type: ignore[attr-defined]
            boxes = [title.get_window_extent() for title in titles if title.get_text()]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def shifted(comparison: Comparison, name: str, by: float) -> Comparison:
    """The comparison with one strategy's figures moved by ``by``."""

    def plus(shown: Interval) -> Interval:
        return dataclasses.replace(shown, mean=shown.mean + by, low=shown.low + by, high=shown.high + by)

    def moved(cell: Cell) -> Cell:
        seeds = {seed: value + by for seed, value in cell.seeds.items()}
        versus = cell.versus
        if versus is not None:
            judged = dataclasses.replace(versus.judged, difference=plus(versus.judged.difference))
            versus = dataclasses.replace(versus, judged=judged)
        return dataclasses.replace(cell, best=plus(cell.best), seeds=seeds, versus=versus)

    cells = tuple(moved(cell) if cell.name == name else cell for cell in comparison.cells)
    return dataclasses.replace(comparison, cells=cells)


def test_a_strategy_far_off_does_not_hide_the_others(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not plot_comparison.off_scale(comparison)
    assert not plot_comparison.off_scale(shifted(comparison, "NST", 0.6))  # the best is always drawn
    far = shifted(comparison, "NST", -0.6)
    assert plot_comparison.off_scale(far) == {"NST"}
    figures: list[Figure] = []
    monkeypatch.setattr(plot_comparison, "render", lambda figure, *_: figures.append(figure))
    with style():
        plot_comparison.comparison_picture(far)
    axes = figures[0].axes[0]
    (alone,) = (cell.seeds for cell in far.cells if cell.name == "student alone")
    others = [
        100 * (value - alone[seed])
        for cell in far.cells
        if cell.name != "NST"
        for seed, value in cell.seeds.items()
    ]
    left, right = axes.get_xlim()
    assert left < min(others)
    assert right > max(others)
    assert right - left < 3 * (max(others) - min(others))
    _, versus = pick(far, "NST")
    shown = f"{100 * versus.difference.mean:.2f}".replace("-", "\N{MINUS SIGN}")
    assert any(shown in text.get_text() for text in axes.texts)


def test_a_path_has_one_colour_in_all_figures(
    records: Records, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plot_paths, "render", lambda figure, *_: figures.append(figure))
    cells = tuple(sorted(comparison.cells, key=lambda cell: cell.name))  # not the order of the paths
    with style():
        plot_paths.weights_picture(records, dataclasses.replace(comparison, cells=cells))
        plot_paths.losses_picture(records, dataclasses.replace(comparison, cells=cells))
    weights, losses = (
        {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
        for legend in (figure.legends[0] for figure in figures)
    )
    for path in ("soft target", "logits", "attention transfer", "NST"):
        assert weights[path].get_color() == losses[path].get_color()
    looks = [(losses[cell.name].get_color(), str(losses[cell.name]._dash_pattern)) for cell in cells[:-1]]  # type: ignore[attr-defined]
    assert len(set(looks)) == len(looks)


def test_a_figure_is_the_same_bytes_each_time(records: Records, comparison: Comparison) -> None:
    alone = dataclasses.replace(comparison, cells=comparison.cells[:2])
    empty = dataclasses.replace(records, paths=records.paths.iloc[:0])  # leaves the first figure alone
    (one,), (other,) = draw(empty, alone), draw(empty, alone)
    assert (one.png, one.svg) == (other.png, other.svg)
