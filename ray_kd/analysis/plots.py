"""The figures of a sweep: the comparison, the weight of every path, and the loss of every path."""

from __future__ import annotations

from pathlib import Path

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.plot_comparison import comparison_picture
from ray_kd.analysis.plot_paths import losses_picture, weights_picture
from ray_kd.analysis.plot_style import Picture, attempt, style
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records


def draw(records: Records, comparison: Comparison) -> list[Picture]:
    """Every figure that the records have something for (a sweep without paths has one figure)."""
    with style():
        pictures = [
            attempt("comparison", lambda: comparison_picture(comparison)),
            attempt("weights", lambda: weights_picture(records, comparison)),
            attempt("losses", lambda: losses_picture(records, comparison)),
        ]
    return [picture for picture in pictures if picture is not None]


def write_pictures(pictures: list[Picture], out: str | Path | Folder) -> dict[str, str]:
    """Write ``<name>.png`` and ``<name>.svg`` for each picture; returns the path of each file.

    Raises:
        UserError: ``out`` cannot be written.
    """
    folder = Folder.open(out)
    written = {}
    for picture in pictures:
        if picture.trouble:
            continue
        written[f"{picture.name}.png"] = folder.write(f"{picture.name}.png", picture.png)
        written[f"{picture.name}.svg"] = folder.write(f"{picture.name}.svg", picture.svg)
    return written
