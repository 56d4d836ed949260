"""The figures of weights and losses: many strategies, weights of 0, weights that hardly move."""

from __future__ import annotations

import dataclasses

import pytest
from matplotlib.figure import Figure

from ray_kd.analysis import plot_paths
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.plot_style import style
from ray_kd.analysis.records import Records


def test_weights_that_hardly_move_cut_off_no_other_panel(
    records: Records, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plot_paths, "render", lambda figure, *_: figures.append(figure))
    paths = records.paths.copy()
    last = paths["cell"] == "adaptive by layer"
    paths.loc[last, "weight"] = 1 + 0.01 * (paths.loc[last, "epoch"] % 2)
    with style():
        plot_paths.weights_picture(dataclasses.replace(records, paths=paths), comparison)
    panels = [axes for axes in figures[0].axes if axes.get_visible()]
    assert len(panels) == 2
    for axes in panels:
        low, high = axes.get_ylim()
        values = [value for line in axes.get_lines() for value in line.get_ydata()]
        assert low <= min(values) <= max(values) <= high


def test_a_path_that_is_off_keeps_the_logarithmic_axis(
    records: Records, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plot_paths, "render", lambda figure, *_: figures.append(figure))
    paths = records.paths.copy()
    paths.loc[(paths["cell"] == "adaptive by path") & (paths["epoch"] > 10), "weight"] = 0.0
    with style():
        plot_paths.weights_picture(dataclasses.replace(records, paths=paths), comparison)
        paths.loc[paths["epoch"] == 1, "weight"] = -1.0
        plot_paths.weights_picture(dataclasses.replace(records, paths=paths), comparison)
    scales = [{axes.get_yscale() for axes in figure.axes if axes.get_visible()} for figure in figures]
    assert scales == [{"log"}, {"linear"}]
    assert all(axes.get_ylim()[0] > 0 for axes in figures[0].axes)


def test_of_many_strategies_the_best_are_drawn(
    records: Records, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot_paths, "MOST", 2)
    captions: list[str] = []
    figures: list[Figure] = []

    def render(figure: Figure, name: str, title: str, caption: str) -> None:
        figures.append(figure)
        captions.append(caption)

    monkeypatch.setattr(plot_paths, "render", render)
    with style():
        plot_paths.losses_picture(records, comparison)
    taught = [cell for cell in comparison.cells if cell.name != "student alone"]
    best = sorted(taught, key=lambda cell: cell.best.mean)[-2:]
    drawn = {text.get_text() for text in figures[0].legends[0].get_texts()}
    assert drawn == {cell.name for cell in best}
    assert f"of {len(taught)} the 2 with the best means" in captions[0]
