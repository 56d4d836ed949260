"""Records -> verdict: is a strategy as good as the best other, and do its weights show what helps?

    python analysis/judge.py results --sweep judge_utility
    python analysis/judge.py results --sweep judge_utility --out docs/results/utility

Prints the judgement and writes judgement.md and its figures. The comparator is chosen on validation; the
test differences have intervals that hold together at 95 %, and a margin of 1 point. See judgement.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python looks in its folder alone

from analysis.judgement import judge
from analysis.judgement_report import report
from analysis.plot_judgement import judgement_pictures
from analysis.script import run, say_left_out, script_parser
from ray_kd.analysis.plots import write_pictures
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import only_sweep, read_records
from ray_kd.config.screen import say


def main() -> None:
    """Judge one strategy of a sweep."""
    parser = script_parser(__doc__)
    parser.add_argument("--strategy", default="utility", help="its aggregator's name (default: utility)")
    arguments = parser.parse_args()
    sweep = arguments.sweep or only_sweep(arguments.storage)
    records = read_records(arguments.storage, sweep)
    judgement = judge(records, arguments.strategy)
    text = report(judgement)
    say(text)
    folder = Folder.open(arguments.out or f"{arguments.storage}/sweeps/{sweep}/judgement")
    say(folder.write("judgement.md", text))
    pictures = judgement_pictures(judgement, records)
    for path in write_pictures(pictures, folder).values():
        say(path)
    say_left_out(pictures)


if __name__ == "__main__":
    run(main)
