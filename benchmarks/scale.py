"""What a sweep of ten thousand trials costs its reader: status, analyze, report, each in its own process.

    python benchmarks/scale.py                            # 10,000 trials of 24 epochs in 2,000 cells
    python benchmarks/scale.py --trials 500 --keep /tmp/some
    python benchmarks/scale.py --records /tmp/some        # of records that were made before

Two students are trained on digits, alone and along four paths (with their teachers). Their records are copied
to the runs of a real sweep of as many cells as trials / 5, under the identities that the sweep's plan gives
them, with figures that are moved a little (seeded), so that statistics have something to do. Plan, design and
ledger are written by the trial queue itself, to which every job's end is told.

Of each verb: wall seconds, CPU seconds, the largest memory of its processes together, and for the report its
size. Records are read from the page cache where it holds them. What the driver of such a sweep costs is in
benchmarks/queue_cost.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SEEDS = 5
EPOCHS = 24
SWEEP = "many"
BASE: dict[str, Any] = {
    "dataset": {"name": "digits", "labels": 400},
    "views": {"name": "shift", "count": 20},
    "student": {"name": "digits_cnn", "width": 4},
    "teacher": {"model": {"name": "digits_cnn", "width": 16}, "training": {"epochs": 10}},
    "aggregation": {"name": "adaptive"},
    "training": {"batch_size": 50, "epochs": EPOCHS},
}
PATHS = ["soft_target", "logits", "attention_transfer", "nst"]


def make(folder: str, trials: int) -> None:
    """Write the records of a sweep of so many trials."""
    from ray_kd.config.sweep import SweepSpec
    from ray_kd.storage import Store
    from ray_kd.training.distill import distill
    from ray_kd.trials.ledger import Ledger, Outcome
    from ray_kd.trials.trial_queue import TrialQueue

    cells: dict[str, dict[str, Any]] = {"student alone": {"paths": []}}
    for number in range(1, trials // SEEDS):
        cells[f"strategy {number}"] = {"paths": PATHS, "optimizer.lr": 0.05 + number / 1e6}
    sweep = SweepSpec.parse(
        {
            "name": SWEEP,
            "base": {**BASE, "storage": folder},
            "baseline": "student alone",
            "cells": cells,
            "seeds": list(range(SEEDS)),
        }
    )
    plan, store = sweep.plan(), Store(folder)
    for teacher in plan.teachers:
        distill(teacher)
    models = {}
    for trial in plan.trials:
        if trial.seed == 0 and trial.cell in ("student alone", "strategy 1"):
            distill(trial.spec)
            models[trial.cell] = _Model(store, f"runs/{trial.identity}")
    os.fsync = lambda fd: None  # the disk's time is not what is measured
    ledger = Ledger(store, sweep.name)
    ledger.load()
    queue = TrialQueue(sweep, plan, ledger, slots=8)
    ledger.write_design(queue.looks.design)
    ledger.write_plan(plan.to_json())
    ledger.write_sweep(sweep.to_yaml())
    draw = random.Random(0)
    while (job := queue.next()) is not None:
        model = models["student alone" if job.cell == "student alone" else "strategy 1"]
        shift = draw.gauss(0, 0.003) + (0.0 if job.cell == "student alone" else draw.choice((0, 0, 0.004)))
        queue.running(job.identity)
        summary = model.copy(job.identity, job.spec, shift + draw.gauss(0, 0.004))
        queue.end(job.identity, Outcome.of(summary))


class _Model:
    """The records of a real run, which others are made of."""

    def __init__(self, store: Any, folder: str) -> None:
        from ray_kd.storage import whole_lines

        self.store = store
        self.summary = store.read_json(f"{folder}/summary.json")
        self.fixed = {name: store.read(f"{folder}/{name}") for name in ("environment.json", "dataset.json")}
        self.lines = {
            name: whole_lines(store.read(f"{folder}/{name}"))[0]
            for name in ("epochs.jsonl", "paths.jsonl")
            if store.exists(f"{folder}/{name}")
        }

    def copy(self, identity: str, spec: Any, shift: float) -> dict[str, Any]:
        """Write them for another run, with rates moved by ``shift``; returns its summary."""
        from ray_kd.storage.store import json_line

        folder = f"runs/{identity}"
        for name, content in self.fixed.items():
            self.store.write(f"{folder}/{name}", content)
        self.store.write(f"{folder}/spec.yaml", spec.to_yaml().encode())
        for name, entries in self.lines.items():
            moved = b"".join(json_line(_moved(entry, shift)) for entry in entries)
            self.store.write(f"{folder}/{name}", moved)
        about = {"identity": identity, "name": spec.name}
        summary: dict[str, Any] = {**_moved(self.summary, shift), **about}
        self.store.write_json(f"{folder}/summary.json", summary)
        return summary


def _moved(entry: dict[str, Any], shift: float) -> dict[str, Any]:
    """The same with every rate moved by ``shift``, and losses, weights and seconds by as many hundredths."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            found[key] = _moved(value, shift)
        elif key in ("top1", "agreement"):
            found[key] = min(1.0, max(0.0, value + shift))
        elif isinstance(value, float):
            found[key] = value * (1 + shift)
        else:
            found[key] = value
    return found


def measure(arguments: list[str]) -> tuple[float, float, float, bytes]:
    """Wall and CPU seconds of a verb, the peak of its processes' memory in MB, and what it printed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen([sys.executable, "-m", "ray_kd.cli.main", *arguments], stdout=said)
        watch = _Memory(child.pid)
        watch.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        watch.over.set()
        watch.join()
        said.seek(0)
        text = said.read()
    if child.returncode:
        sys.exit(f"{' '.join(arguments)}: exit code {child.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, max(usage.ru_maxrss / 1024, watch.peak), text


class _Memory(threading.Thread):
    """The largest memory of a process and its children together, looked at ten times a second.

    Of a process alone its ``ru_maxrss`` is exact. This counts the pages that processes share once.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.over = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            pids = self._tree(self.pid)
            if len(pids) > 1:
                self.peak = max(self.peak, sum(map(self._of, pids)))

    def _tree(self, pid: int) -> list[int]:
        with contextlib.suppress(OSError):
            texts = [place.read_text() for place in Path(f"/proc/{pid}/task").glob("*/children")]
            children = [int(child) for text in texts for child in text.split()]
            return [pid, *(one for child in children for one in self._tree(child))]
        return []

    def _of(self, pid: int) -> float:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) / 1024
        return 0.0


def show(folder: str) -> None:
    """A line for each verb."""
    print("| verb | wall | CPU | memory | written |\n|---|---|---|---|---|", flush=True)
    verbs = {
        "status": ["status", folder],
        "analyze": ["analyze", folder],
        "analyze, again": ["analyze", folder],
        "report": ["report", folder],
    }
    for name, arguments in verbs.items():
        wall, cpu, memory, said = measure(arguments)
        written = f"{len(said) / 1e3:,.0f} kB on the screen"
        if name != "status":
            size = Path(folder, "sweeps", SWEEP, "report.html").stat().st_size
            written = f"report of {size / 1e6:.2f} MB, {written}"
        print(f"| {name} | {wall:.1f} s | {cpu:.1f} s | {memory:,.0f} MB | {written} |", flush=True)


def main() -> None:
    """Make the records in a process of its own, so that this one stays small, then measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000, help=f"a multiple of {SEEDS}")
    parser.add_argument("--records", help="a storage that an earlier call kept")
    parser.add_argument("--keep", help="where to make the records, and to leave them")
    parser.add_argument("--make-only", action="store_true", help="make records and end")
    options = parser.parse_args()
    if options.make_only:
        make(options.keep, options.trials)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = options.records or options.keep or folder
        if options.records is None:
            given = ["--make-only", "--keep", place, "--trials", str(options.trials)]
            subprocess.run([sys.executable, __file__, *given], check=True)
        show(place)


if __name__ == "__main__":
    main()
