"""The figures of a sweep: the comparison, the weight and the loss of every path, and gains across tasks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.plot_across import across_picture
from ray_kd.analysis.plot_comparison import comparison_picture
from ray_kd.analysis.plot_paths import losses_picture, weights_picture
from ray_kd.analysis.plot_style import Picture, attempt, style
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.sweep_results import SweepResults


def draw(records: Records, comparison: Comparison) -> list[Picture]:
    """The figures of one task, without those that the records have no data for."""
    with style():
        pictures = [
            attempt("comparison", lambda: comparison_picture(comparison)),
            attempt("weights", lambda: weights_picture(records, comparison)),
            attempt("losses", lambda: losses_picture(records, comparison)),
        ]
    return [picture for picture in pictures if picture is not None]


def draw_plots(results: SweepResults) -> dict[str, list[Picture]]:
    """The figures of each task; with several tasks also those across tasks, under the name ''."""
    drawn = {task: draw(results.parts[task], comparison) for task, comparison in results.comparisons.items()}
    if results.across is not None:
        with style():
            picture = attempt("across", partial(across_picture, results.across))
        drawn[""] = [] if picture is None else [picture]
    return drawn


def write_plots(results: SweepResults, drawn: dict[str, list[Picture]], folder: Folder) -> dict[str, str]:
    """Write the figures into ``plots/``, those of a task into the task's own; returns each file's path."""
    files = {}
    for task, pictures in drawn.items():
        place = f"{results.folders.get(task, '')}plots"
        written = write_pictures(pictures, folder.sub(place))
        files.update({f"{place}/{name}": path for name, path in written.items()})
    return files


def write_pictures(pictures: list[Picture], out: str | Path | Folder) -> dict[str, str]:
    """Write ``<name>.png`` and ``<name>.svg`` for each picture; returns the path of each file."""
    folder = Folder.open(out)
    contents: dict[str, bytes | str] = {}
    for picture in pictures:
        if not picture.trouble:
            contents |= {f"{picture.name}.png": picture.png, f"{picture.name}.svg": picture.svg}
    return {name: folder.write(name, content) for name, content in contents.items()}
