"""Records -> statistics: which strategy is best, and can the difference be trusted?

    python analysis/compare.py results                           # the only sweep of results/
    python analysis/compare.py results --sweep digits --out here # also writes here/table.md and table.csv

Prints the answer, the table and what must be known to read it; of a sweep over several tasks a table for
each, and one across them. The primary figure is the test metric of the weights that were best on
validation; the test is a paired t-test against the baseline, seed by seed, with Holm's correction. Only
finished trials of phase "compare" enter.
"""

from __future__ import annotations

from rich.console import Console

from ray_kd.analysis.pipeline import only_sweep
from ray_kd.analysis.records import read_records
from ray_kd.analysis.script import run, script_parser
from ray_kd.analysis.sweep_results import findings, shown_table, write_findings


def main() -> None:
    """Compare the cells of a sweep and print the table."""
    arguments = script_parser(__doc__).parse_args()
    sweep = arguments.sweep or only_sweep(arguments.storage)
    found = findings(read_records(arguments.storage, sweep))
    Console().print(shown_table(found))
    if arguments.out:
        for path in write_findings(found, arguments.out).values():
            print(path)


if __name__ == "__main__":
    run(main)
