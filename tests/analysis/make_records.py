"""Write the records of a made-up sweep, as a trainer would leave them: material for the tests.

    python tests/analysis/make_records.py DIRECTORY

Numbers are synthetic and seeded. Paths behave as they do in training: losses fall, and adaptive weights
follow 1 / loss with an overshoot.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ray_kd.trials.design import Schedule, declare

ALL = ("soft_target", "logits", "attention_transfer", "nst")
LEVEL = {"soft_target": 6.0, "logits": 20.0, "attention_transfer": 0.02, "nst": 0.004}
PUBLISHED = {"soft_target": 0.1, "logits": 0.1, "attention_transfer": 1000.0, "nst": 10.0}
TEST_SAMPLES = 360


@dataclass(frozen=True)
class Strategy:
    """A made-up cell: its paths, its aggregation, and the accuracy it reaches."""

    paths: tuple[str, ...] = ()
    aggregation: str = "fixed"
    granularity: str = "path"
    weights: dict[str, float] = field(default_factory=dict)
    top1: float = 0.90
    task: str = "classification"


MONITORS = {"classification": "top1", "segmentation": "miou", "detection": "map"}
STRATEGIES: dict[str, Strategy] = {
    "student alone": Strategy(top1=0.915),
    "soft target": Strategy(("soft_target",), top1=0.935),
    "logits": Strategy(("logits",), top1=0.938),
    "attention transfer": Strategy(("attention_transfer",), top1=0.912),
    "NST": Strategy(("nst",), top1=0.918),
    "equal weights": Strategy(ALL, top1=0.931),
    "published weights": Strategy(ALL, weights=PUBLISHED, top1=0.895),
    "adaptive by path": Strategy(ALL, "adaptive", top1=0.944),
    "adaptive by layer": Strategy(ALL, "adaptive", "layer", top1=0.941),
}
BASELINE = "student alone"
CONTROL = "student alone, 2x epochs"
Key = tuple[str, int]


def make_records(
    root: Path,
    *,
    sweep: str = "digits",
    seeds: int = 5,
    epochs: int = 30,
    objects: bool = False,
    statuses: dict[Key, str] | None = None,
    values: dict[Key, float] | None = None,
    strategies: dict[str, Strategy] | None = None,
    control: bool = True,
    search: int = 0,
    baseline: str | None = BASELINE,
    looks: tuple[int, ...] | None = None,
    margin: float | None = None,
) -> Path:
    """Write a whole storage directory and return it.

    Args:
        objects: the object-store layout (``epochs/000001.json``) instead of lines.
        statuses: (cell, seed) -> failed, stopped, blocked, unfinished, running or missing; others finished.
        values: (cell, seed) -> exact test top-1 of the best weights.
        control: add trials of the baseline with twice the epochs, phase ``control``.
        search: so many trials of phase ``search``, with absurdly good numbers.
        looks, margin: declared in design.json (the margin in points); None: there is none.
    """
    statuses, values = statuses or {}, values or {}
    cells = STRATEGIES if strategies is None else strategies
    trials: list[dict[str, Any]] = []

    def add(cell: str, seed: int, phase: str, strategy: Strategy, length: int) -> None:
        identity = f"{len(trials):016x}"
        trial = {"identity": identity, "cell": cell, "seed": seed, "phase": phase}
        axes = {"paths": list(strategy.paths), "aggregation": strategy.aggregation, "seed": seed}
        planned = {"overrides": {"seed": seed}, "axes": axes, "task": strategy.task}
        trials.append({**trial, **planned})
        status = statuses.get((cell, seed), "finished")
        entry = {**trial, "status": status, "reason": f"it is {status}", "seconds": 0.0}
        note = root / "sweeps" / sweep / "ledger" / f"{identity}.json"
        if status == "blocked":
            _json(note, entry)
        if status in ("missing", "blocked"):
            return
        run = _Run(cell, seed, strategy, length, status, values.get((cell, seed)))
        run.write(root / "runs" / identity, identity, objects)
        if status == "running":
            (root / "runs" / identity / "lock").write_text("another-host:1:0123abcd 1.000")
        elif status != "unfinished":
            _json(note, {**entry, "reason": run.reason(), "seconds": 3.0})

    for cell, strategy in cells.items():
        for seed in range(seeds):
            add(cell, seed, "compare", strategy, epochs)
    for seed in range(seeds if control else 0):
        add(CONTROL, seed, "control", Strategy(top1=0.917), 2 * epochs)
    of = "published weights" if "published weights" in cells else next(reversed(cells))
    for index in range(search):
        add(of, index, "search", Strategy(ALL, top1=0.999), epochs)
    plan = {
        "name": sweep,
        "baseline": baseline,
        "metric": "top1",
        "mode": "max",
        "teachers": ["f" * 16],
        "cells": [*cells, *([CONTROL] if control else [])],
        "trials": trials,
        "notes": ["The student sees 200 labels; the teacher sees all."],
    }
    _json(root / "sweeps" / sweep / "plan.json", plan)
    if looks is not None:
        _json(root / "sweeps" / sweep / "design.json", declare(plan, Schedule(looks, margin)).to_json())
    sweep_yaml = root / "sweeps" / sweep / "sweep.yaml"
    sweep_yaml.write_text(yaml.safe_dump({"name": sweep, "baseline": baseline, "axes": {"seed": [0, 1]}}))
    teacher = _Run(f"{sweep}-teacher", 0, Strategy(top1=0.985), epochs, "finished", None)
    teacher.write(root / "runs" / ("f" * 16), "f" * 16, objects)
    return root


def make_tasks(root: Path, test: dict[str, dict[str, list[float]]], epochs: int = 10) -> Path:
    """Write the records of a sweep over tasks, called ``tasks``; returns its storage directory.

    Args:
        test: task -> strategy -> the exact test metric of the best weights, by seed. The strategy ``teacher``
            is the task's teacher (an empty list: none on record). One without paths, ``student alone``, is
            the baseline, and has a control on seed 0.
    """
    trials: list[dict[str, Any]] = []
    teachers, cells, controls = [], [], []
    for task, strategies in test.items():
        for name, values in strategies.items():
            strategy = Strategy(() if name in (BASELINE, "teacher") else ALL[:2], "equal", task=task)
            cell = f"{task}, {name}"
            cells += [cell] if name != "teacher" else []
            for seed, value in enumerate(values):
                identity = f"{len(trials) + len(teachers):016x}"
                _Run(cell, seed, strategy, epochs, "finished", value).write(
                    root / "runs" / identity, identity, False
                )
                if name == "teacher":
                    teachers.append(identity)
                    continue
                trial = {"identity": identity, "cell": cell, "seed": seed, "phase": "compare", "task": task}
                trials.append({**trial, "overrides": {}, "axes": {"task": task, "strategy": name}})
        control = f"{task}, {CONTROL}"
        identity = f"{'c' * 8}{len(trials):08x}"
        run = _Run(control, 0, Strategy(task=task), 2 * epochs, "finished", None)
        run.write(root / "runs" / identity, identity, False)
        controls.append(control)
        about = {"identity": identity, "cell": control, "seed": 0, "phase": "control", "task": task}
        trials.append({**about, "overrides": {}, "axes": {}})
    names = {"name": "tasks", "baseline": BASELINE, "metric": "monitor", "mode": "max"}
    plan = {**names, "teachers": teachers, "cells": [*cells, *controls], "trials": trials, "notes": []}
    _json(root / "sweeps" / "tasks" / "plan.json", plan)
    return root


class _Run:
    """One made-up run."""

    def __init__(
        self, cell: str, seed: int, strategy: Strategy, epochs: int, status: str, value: float | None
    ) -> None:
        self.cell, self.seed, self.strategy, self.epochs = cell, seed, strategy, epochs
        self.status, self.value = status, value
        self.done = {"finished": epochs, "failed": epochs // 5, "stopped": epochs // 3}.get(
            status, epochs // 2
        )
        self.generator = np.random.default_rng([seed, sum(map(ord, cell))])
        self.luck = 0.006 * np.random.default_rng(seed).standard_normal()  # shared by the cells of a seed

    def reason(self) -> str | None:
        reasons = {
            "failed": f"the loss became nan in epoch {self.done + 1}",
            "stopped": f"asha: below the median at epoch {self.done}",
        }
        return reasons.get(self.status)

    def top1(self, epoch: int) -> float:
        """Accuracy on a test set of 360, so quantised."""
        rise = 1 - math.exp(-6 * epoch / self.epochs)
        noise = 0.003 * self.generator.standard_normal()
        level = min(1.0, (self.strategy.top1 + self.luck) * rise + noise)
        return round(level * TEST_SAMPLES) / TEST_SAMPLES

    def metrics(self, epoch: int, top1: float | None = None) -> dict[str, float]:
        top1 = self.top1(epoch) if top1 is None else top1
        if self.strategy.task != "classification":
            return {"loss": 2.3 * (1 - top1) + 0.05, MONITORS[self.strategy.task]: top1}
        metrics = {"loss": 2.3 * (1 - top1) + 0.05, "top1": top1, "top5": min(1.0, top1 + 0.06)}
        return {**metrics, "agreement": max(0.0, top1 - 0.01)} if self.strategy.paths else metrics

    def write(self, folder: Path, identity: str, objects: bool) -> None:
        folder.mkdir(parents=True)
        (folder / "spec.yaml").write_text(yaml.safe_dump(self.spec(), sort_keys=False))
        _json(folder / "environment.json", ENVIRONMENT)
        lines = [self.epoch(epoch) for epoch in range(1, self.done + 1)]
        paths = self.paths()
        if objects:
            for epoch, line in enumerate(lines, 1):
                _json(folder / "epochs" / f"{epoch:06d}.json", line)
                _json(folder / "paths" / f"{epoch:06d}.json", [p for p in paths if p["epoch"] == epoch])
        else:
            (folder / "epochs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (folder / "paths.jsonl").write_text("".join(json.dumps(path) + "\n" for path in paths))
        if self.status in ("running", "unfinished"):
            if not objects:  # a half-written last line, as a live or killed run leaves it
                with (folder / "epochs.jsonl").open("a") as file:
                    file.write(f'{{"epoch": {self.done + 1}, "step": 12, "train": {{"lo')
            return
        if self.status == "failed":
            (folder / "error.txt").write_text("Traceback ...\nTrainingFailed: the loss became nan\n")
        _json(folder / "summary.json", self.summary(identity))

    def spec(self) -> dict[str, Any]:
        paths = [
            {"name": name, "weight": self.strategy.weights.get(name, 1.0), "label": None}
            for name in self.strategy.paths
        ]
        aggregation = {"name": self.strategy.aggregation, "granularity": self.strategy.granularity, "k": 1.0}
        return {
            "name": self.cell,
            "task": {"name": self.strategy.task},
            "dataset": {"name": "digits", "labels": 200},
            "student": {"name": "small_cnn", "channels": [8, 12, 16]},
            "paths": paths,
            "aggregation": aggregation,
            "training": {"epochs": self.epochs, "batch_size": 64},
            "seed": self.seed,
        }

    def epoch(self, epoch: int) -> dict[str, Any]:
        fall = math.exp(-4 * epoch / self.epochs)
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": 7 * epoch,
            "learning_rate": 0.05 * fall,
            "seconds": 0.1,
        }
        line["train"] = {"loss": 2.3 * fall + 0.1, "task_loss": 2.0 * fall + 0.05}
        if epoch % 2 == 0 or epoch == self.epochs:
            line["val"] = self.metrics(epoch)
        return line

    def paths(self) -> list[dict[str, Any]]:
        """Raw losses fall to a level; an adaptive weight moves toward 1 / loss, overshooting on the way."""
        entries = []
        for path in self.strategy.paths:
            staged = self.strategy.granularity == "layer" and path in ("attention_transfer", "nst")
            for stage in range(4) if staged else (None,):
                share = (0.4, 0.3, 0.2, 0.1)[stage] if stage is not None else 1.0
                name = path if stage is None else f"{path}/stage{stage}"
                pace = 3.0 + 0.5 * self.generator.standard_normal()
                for epoch in range(1, self.done + 1):
                    time = epoch / self.epochs
                    noise = math.exp(0.05 * self.generator.standard_normal())
                    loss = LEVEL[path] * share * (0.1 + 0.9 * math.exp(-pace * time)) * noise
                    target = 1 + 0.8 * math.sin(3 * time) * math.exp(-2 * time)
                    weight = (1 / loss) ** (1 - math.exp(-8 * time)) * target
                    if self.strategy.aggregation == "fixed":
                        weight = self.strategy.weights.get(path, 1.0)
                    entries.append(
                        {
                            "epoch": epoch,
                            "path": name,
                            "loss": loss,
                            "weight": weight,
                            "gradient_norm": None,
                            "cosine": None,
                        }
                    )
        return sorted(entries, key=lambda entry: int(entry["epoch"]))

    def summary(self, identity: str) -> dict[str, Any]:
        best = max(1, self.done - 3)
        last_test = self.metrics(self.done)
        best_test = self.metrics(best, self.value)
        failed = self.status == "failed"
        return {
            "identity": identity,
            "name": self.cell,
            "status": self.status,
            "reason": self.reason(),
            "epochs": self.done,
            "steps": 7 * self.done,
            "seconds": 0.1 * self.done * (1 + 0.25 * len(self.strategy.paths)),
            "started": "2025-01-01T12:00:00+00:00",
            "monitor": MONITORS[self.strategy.task],
            "mode": "max",
            "parameters": 4242,
            "last": None
            if failed
            else {"epoch": self.done, "val": self.metrics(self.done), "test": last_test},
            "best": None if failed else {"epoch": best, "val": self.metrics(best), "test": best_test},
        }


ENVIRONMENT = {
    "ray_kd": "0.1.0",
    "torch": "2.15.0",
    "python": "3.11.9",
    "device": "cpu",
    "precision": "float32",
    "threads": 1,
    "host": "node-1",
    "commit": "0123abc",
    "ray": "2.60.0",
}

TROUBLED = {
    ("published weights", 3): "failed",
    ("published weights", 4): "stopped",
    ("NST", 2): "running",
    ("NST", 4): "missing",
}
"""Trials that did not finish, for ``statuses``."""


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    print(make_records(parser.parse_args().directory, statuses=TROUBLED, search=3))
