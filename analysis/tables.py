"""Records -> Parquet: trials.parquet, epochs.parquet, paths.parquet, with a fixed schema.

    python analysis/tables.py results                 # every run in results/, into results/tables
    python analysis/tables.py results --sweep digits  # one sweep, into results/sweeps/digits/tables
    python analysis/tables.py s3://bucket/kd --sweep digits --out here

Works while trials still train. Then, with pandas or any other reader of Parquet:

    pandas.read_parquet("here/trials.parquet").groupby("cell").best_test_top1.describe()
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python looks in its folder alone

from analysis.script import run, script_parser
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records
from ray_kd.analysis.tables import write_tables
from ray_kd.config.screen import say


def main() -> None:
    """Read the records and write the three files."""
    arguments = script_parser(__doc__).parse_args()
    below = f"sweeps/{arguments.sweep}/tables" if arguments.sweep else "tables"
    out = Folder.open(arguments.out) if arguments.out else Folder.open(arguments.storage).sub(below)
    for path in write_tables(read_records(arguments.storage, arguments.sweep), out).values():
        say(path)


if __name__ == "__main__":
    run(main)
