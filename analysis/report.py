"""Records -> everything: Parquet tables, table.md, table.csv, plots, and one self-contained report.html.

    python analysis/report.py results                            # the only sweep of results/
    python analysis/report.py results --sweep digits --out here

The same as ``ray_kd.analysis.analyze("results", "digits")`` in Python.
"""

from __future__ import annotations

from ray_kd.analysis.pipeline import analyze
from ray_kd.analysis.script import run, script_parser


def main() -> None:
    """Analyse a sweep and say what was written."""
    arguments = script_parser(__doc__).parse_args()
    analysis = analyze(arguments.storage, arguments.sweep, arguments.out)
    print(analysis.answer)
    for path in analysis.files.values():
        print(path)


if __name__ == "__main__":
    run(main)
