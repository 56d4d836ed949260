"""Records -> figures, each as PNG (200 dpi) and SVG.

    python analysis/plots.py results                             # the only sweep of results/
    python analysis/plots.py results --sweep digits --out figures

comparison: every strategy with its 95 % interval. weights: how the weight of each path moves, where it
does. losses: the raw loss of each path.
"""

from __future__ import annotations

from ray_kd.analysis.pipeline import only_sweep, write_figures
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records
from ray_kd.analysis.script import end, run, script_parser
from ray_kd.analysis.sweep_results import draw_findings, findings


def main() -> None:
    """Draw the figures of a sweep."""
    arguments = script_parser(__doc__).parse_args()
    sweep = arguments.sweep or only_sweep(arguments.storage)
    out = arguments.out or Folder.open(arguments.storage).sub(f"sweeps/{sweep}/plots")
    found = findings(read_records(arguments.storage, sweep))
    drawn = draw_findings(found)
    for path in write_figures(found, drawn, out).values():
        print(path)
    end(picture for pictures in drawn.values() for picture in pictures)


if __name__ == "__main__":
    run(main)
