"""Do sweeps with stored targets come to the figures of the sweep with live teachers?

    python benchmarks/stored_live.py sweeps/digits.yaml seeds=[0,1,2] base.training.epochs=20 controls={}

Runs a sweep with live teachers, and with targets stored in float16 and in int8; runs of one cell and seed
begin with the same weights and see the same batches. Prints, for each cell, the test metric of the last
weights: mean and standard deviation of the live runs, and what stored ones differ by, pair by pair.
"""

from __future__ import annotations

import argparse

import pandas as pd

from ray_kd import SweepSpec, read_records, run_sweep

KINDS = {"live": "live", "float16": "stored", "int8": "{source: stored, precision: int8}"}


def figures(file: str, overrides: list[str], storage: str, kind: str) -> pd.Series:
    """The last test metric by cell and seed."""
    name = f"stored_live_{kind}"
    spec = SweepSpec.load(file, *overrides, f"name={name}", f"base.targets={KINDS[kind]}")
    result = run_sweep(spec, storage=storage)
    if result.finished != result.total:
        raise SystemExit(result.message())
    trials = read_records(storage, name).trials
    trials = trials[trials["phase"] == "compare"].set_index(["cell", "seed"])
    return trials[f"last_test_{spec.metric.name}"]


def main() -> None:
    """Run them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--storage", default="results")
    given = parser.parse_args()
    found = {kind: figures(given.file, given.overrides, given.storage, kind) for kind in KINDS}
    live = found.pop("live")
    print("\n| cell | live | s.d. of seeds |" + "".join(f" {kind} - live | largest |" for kind in found))
    print("|---|---:|---:|" + "---:|---:|" * len(found))
    for cell, values in live.groupby(level="cell", sort=False):
        row = f"| {cell} | {values.mean():.4f} | {values.std():.4f} |"
        for stored in found.values():
            difference = stored[values.index] - values
            row += f" {difference.mean():+.4f} | {difference.abs().max():.4f} |"
        print(row)


if __name__ == "__main__":
    main()
