"""Records -> what every strategy follows: the share of each path, and when the spoilt ones are off.

    python analysis/shares.py results --sweep utility_ablation
    python analysis/shares.py results --sweep utility_ablation --out docs/results/ablation

Prints the table and writes shares.md. See ray_kd/analysis/shares_table.py.
"""

from __future__ import annotations

from ray_kd.analysis.pipeline import only_sweep
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records
from ray_kd.analysis.script import run, script_parser
from ray_kd.analysis.shares_table import shares_table


def main() -> None:
    """Tabulate the shares of one sweep."""
    arguments = script_parser(__doc__).parse_args()
    sweep = arguments.sweep or only_sweep(arguments.storage)
    text = shares_table(read_records(arguments.storage, sweep))
    print(text)
    folder = Folder.open(arguments.out or f"{arguments.storage}/sweeps/{sweep}")
    print(folder.write("shares.md", text))


if __name__ == "__main__":
    run(main)
