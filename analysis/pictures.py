"""Records -> pictures: what teacher, student alone and distilled student predict on the same test images.

    python analysis/pictures.py results --sweep all_tasks_digits
    python analysis/pictures.py results --sweep scenes_detection --strategy utility --images 6 --out figures

One figure for each dense task of the sweep, predictions_<task>.png and .svg: masks for segmentation, boxes
for detection, from the weights that the runs left. The distilled student is that of the best mean, or of
--strategy.
"""

from __future__ import annotations

from ray_kd.analysis.pipeline import only_sweep
from ray_kd.analysis.plot_predictions import predictions_picture
from ray_kd.analysis.plot_style import style
from ray_kd.analysis.plots import write_pictures
from ray_kd.analysis.predictions import DENSE, predict
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records
from ray_kd.analysis.script import run, script_parser
from ray_kd.analysis.sweep_results import findings
from ray_kd.config.errors import UserError


def main() -> None:
    """Draw the predictions of a sweep's dense tasks."""
    parser = script_parser(__doc__)
    parser.add_argument("--strategy", metavar="NAME", help="whose student; default: that of the best mean")
    parser.add_argument("--images", type=int, default=4, metavar="N", help="test images, default 4")
    arguments = parser.parse_args()
    sweep = arguments.sweep or only_sweep(arguments.storage)
    root = Folder.open(arguments.storage)
    found = findings(read_records(root, sweep))
    dense = [task for task in found.comparisons if task in DENSE]
    if not dense:
        raise UserError(f"sweep '{sweep}' has no {' or '.join(DENSE)}, whose predictions are pictures.")
    pictures = []
    for task in dense:
        seen = predict(found.parts[task], found.comparisons[task], root, arguments.strategy, arguments.images)
        with style():
            pictures.append(predictions_picture(seen))
    out = arguments.out or root.sub(f"sweeps/{sweep}/plots")
    for path in write_pictures(pictures, out).values():
        print(path)


if __name__ == "__main__":
    run(main)
