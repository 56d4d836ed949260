"""What the trial queue costs the driver for each job, and whether that grows with the sweep.

    python benchmarks/queue_cost.py                # 100 and 10,000 jobs
    python benchmarks/queue_cost.py --jobs 100 1000

The queue is the real one, on a plan of so many trials in cells of five seeds, half of which need a teacher.
Its jobs end at once with synthetic metrics, eight at a time; nothing is trained. Printed is CPU time: for a
job that of handing it out, two reports and its end (with the ledger's entry, in memory where the system has
/dev/shm), then that of a snapshot of the whole state, as the progress panel takes it. Planning, which happens
once, is printed apart.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from typing import Any

from ray_kd.cluster.progress import snapshot
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.trial_queue import TrialQueue

SEEDS = 5
MEMORY = "/dev/shm"
BASE: dict[str, Any] = {
    "dataset": {"name": "digits", "labels": 400},
    "student": {"name": "digits_cnn", "width": 4},
    "training": {"epochs": 24},
}
TEACHER = {"model": {"name": "digits_cnn", "width": 16}}


def make_sweep(jobs: int, looks: bool) -> SweepSpec:
    """So many trials; with looks as many if no strategy is decided."""
    cells: dict[str, dict[str, Any]] = {"student alone": {"paths": []}}
    for number in range(1, jobs // SEEDS):
        taught = {"paths": ["soft_target"], "teacher": TEACHER} if number % 2 else {"paths": []}
        cells[f"strategy {number}"] = {**taught, "optimizer.lr": 0.01 + number / 1e6}
    seeds: Any = {"looks": [3, SEEDS], "margin": 1.0} if looks else list(range(SEEDS))
    return SweepSpec.parse(
        {"name": "many", "base": BASE, "baseline": "student alone", "cells": cells, "seeds": seeds}
    )


def measure(jobs: int, looks: bool) -> dict[str, float]:
    """Milliseconds of CPU time: for each job, for each snapshot, and in all of planning."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else None) as folder:
        spec = make_sweep(jobs, looks)
        began = time.process_time()
        ledger = Ledger(Store(folder), spec.name)
        queue = TrialQueue(spec, spec.plan(), ledger, slots=8)
        planned = time.process_time() - began
        running: list[Job] = []
        ended, busy, shown = 0, 0.0, 0.0
        order = random.Random(0)
        while not queue.over:
            began = time.process_time()
            while (job := queue.next()) is not None:
                queue.running(job.identity)
                running.append(job)
            job = running.pop(order.randrange(len(running)))
            queue.progress(job.identity, 12, 0.5)
            queue.progress(job.identity, 24, 0.5)
            metrics = {"top1": 0.5 + order.gauss(0, 0.01)}
            queue.end(job.identity, Outcome.of(summary(job, metrics)))
            middle = time.process_time()
            snapshot(queue)
            shown += time.process_time() - middle
            busy += middle - began
            ended += 1
        return {"a job": 1e3 * busy / ended, "a snapshot": 1e3 * shown / ended, "planning": 1e3 * planned}


def summary(job: Job, metrics: dict[str, float]) -> dict[str, Any]:
    """What a finished run would say of itself."""
    best = {"epoch": 24, "val": metrics, "test": metrics}
    return {"identity": job.identity, "status": "finished", "epochs": 24, "seconds": 2.0, "best": best}


def main() -> None:
    """Measure both kinds of sweeps at each size, and print ratios to the smallest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--repeats", type=int, default=3, help="of each size; the quickest counts")
    options = parser.parse_args()
    os.fsync = lambda fd: None  # the disk's time is not the queue's
    for looks in (False, True):
        print("seeds at two looks" if looks else f"a list of {SEEDS} seeds")
        first: dict[str, float] = {}
        for jobs in options.jobs:
            runs = [measure(jobs, looks) for _ in range(options.repeats)]
            found = {key: min(run[key] for run in runs) for key in runs[0]}
            first = first or found
            shown = [f"{key} {value:.3f} ms ({value / first[key]:.2f})" for key, value in found.items()]
            print(f"  {jobs:>6} jobs: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
