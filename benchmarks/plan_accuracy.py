"""What ``ray-kd sweep --plan --probe`` says, beside what the sweep then takes: trials, bytes, seconds.

    python benchmarks/plan_accuracy.py sweeps/digits.yaml seeds=[0,1]

Plans with timed steps, trains the sweep in an empty storage with Ray, and prints planned, real and their
ratio. Seconds are from the first run's first step to the last run's summary.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from ray_kd.cluster.plan_runs import planned_runs
from ray_kd.cluster.plan_sizes import footprints
from ray_kd.cluster.plan_time import processes_of, slots_of, times_of, wall
from ray_kd.cluster.sweep import run_sweep
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.storage.prune import kind_of
from ray_kd.training.process_cache import ProcessCache


def main(file: str, *overrides: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sweep = SweepSpec.load(file, *overrides, f"base.storage={folder}")
        plan = sweep.plan()
        runs = planned_runs(sweep, plan)
        sizes = footprints(runs, ProcessCache())
        slots = slots_of(runs, sweep.concurrency)
        times = times_of(runs, {}, processes_of(runs, slots))
        planned = {
            "trials": plan.size,
            "weights": runs.total(lambda one: sizes[id(one)].weights)[1],
            "records": runs.total(lambda one: sizes[id(one)].records)[1],
            "seconds": wall(runs, {}, times.each, slots),
        }
        result = run_sweep(sweep)
        store, kinds = Store(folder), Counter[str]()
        for path, size in store.sizes().items():
            kinds[kind_of(path)] += size
        starts, ends = (
            [(Path(folder) / "runs" / run / name).stat().st_mtime for run in store.names("runs")]
            for name in ("spec.yaml", "summary.json")
        )
        real = {"trials": result.total, "seconds": max(ends) - min(starts)}
        real |= {kind: kinds[kind] for kind in ("weights", "records")}
        print(f"{file} {' '.join(overrides)}: {times.timed} of {len(times.each)} kinds of runs timed")
        for name, value in planned.items():
            print(f"{name:>8}  planned {value:>12,.0f}  real {real[name]:>12,.0f}  {value / real[name]:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
