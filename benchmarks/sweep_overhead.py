"""What a sweep costs beside the training itself: the same trials bare and serial, and through Ray Tune.

    python benchmarks/sweep_overhead.py                 # 40 trials of about a second on 2 slots
    python benchmarks/sweep_overhead.py --trials 12 --repeats 1 --nested 0

The bare time is a plain Python loop over the trials in this process, on one thread, without Ray, after a
first trial that loads everything. The sweep's time counts from its first trial's first step; what came
before (Ray, the actors, the teacher) is printed apart. ``efficiency`` is bare seconds over slots x wall
seconds. A few of the same trials then run as a plain nested Tune + TorchTrainer would have it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ray_kd.cluster.quiet import quiet
from ray_kd.cluster.sweep import SweepResult, run_sweep
from ray_kd.config.plan import Trial
from ray_kd.config.sweep import SweepSpec
from ray_kd.training.distill import distill
from ray_kd.training.process_cache import ProcessCache

BASE: dict[str, Any] = {
    "dataset": {"name": "digits", "labels": 400},
    "views": {"name": "shift", "count": 20},
    "student": {"name": "digits_cnn", "width": 4},
    "teacher": {"model": {"name": "digits_cnn", "width": 16}, "training": {"epochs": 5}},
    "training": {"batch_size": 50, "evaluate_every": 2},
}
CELLS: dict[str, dict[str, Any]] = {"alone": {"paths": []}, "soft target": {"paths": ["soft_target"]}}


def make_sweep(trials: int, epochs: dict[str, int], slots: int) -> SweepSpec:
    """So many trials, half of them in each cell."""
    cells = {name: {**given, "training.epochs": epochs[name]} for name, given in CELLS.items()}
    seeds = list(range(max(1, trials // len(cells))))
    return SweepSpec.parse(
        {"name": "overhead", "base": BASE, "seeds": seeds, "cells": cells, "concurrency": slots}
    )


def run_bare(trials: list[Trial], cache: ProcessCache) -> float:
    """Seconds of the trials one after another in this process; the teacher is trained before."""
    with tempfile.TemporaryDirectory() as folder:
        specs = [trial.spec.model_copy(update={"storage": folder}) for trial in trials]
        warm = specs[0].model_copy(update={"seed": 10_000})
        distill(warm, cache=cache)
        begin = time.perf_counter()
        for spec in specs:
            distill(spec, cache=cache)
        return time.perf_counter() - begin


def calibrate(seconds: float, cache: ProcessCache) -> dict[str, int]:
    """Epochs that make a trial of each cell last about so long."""
    epochs = {}
    for name in CELLS:
        trial = next(t for t in make_sweep(2, dict.fromkeys(CELLS, 20), 1).plan().trials if t.cell == name)
        epochs[name] = max(2, round(20 * seconds / run_bare([trial], cache)))
    return epochs


def run_through_tune(sweep: SweepSpec) -> SweepResult:
    """The sweep in a fresh storage; its teacher is trained before the clock starts."""
    with tempfile.TemporaryDirectory() as folder:
        (teacher,) = sweep.plan().teachers
        distill(teacher.model_copy(update={"storage": folder}))
        result = run_sweep(sweep, storage=folder, progress=False)
        if result.finished != result.total:
            sys.exit(result.message())
        return result


def run_nested(trials: list[Trial], slots: int) -> tuple[float, float]:
    """Seconds of ``Tuner.fit`` over TorchTrainers of one worker: from the first step, and before it."""
    import ray
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        from ray_kd.config.spec import RunSpec

        Path(config["mark"]).touch()
        distill(RunSpec.parse(config["spec"]))

    def drive(config: dict[str, Any]) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        run = RunConfig(storage_path=config["folder"], failure_config=FailureConfig(max_failures=0))
        TorchTrainer(
            train, train_loop_config=config, scaling_config=ScalingConfig(num_workers=1), run_config=run
        ).fit()

    with tempfile.TemporaryDirectory() as folder:
        (teacher,) = {trial.spec.teacher_run("teacher").identity(): trial for trial in trials}.values()
        distill(teacher.spec.teacher_run("teacher").model_copy(update={"storage": folder}))
        configs: list[dict[str, Any]] = [
            {
                "spec": trial.spec.model_copy(update={"storage": folder}).to_dict(),
                "mark": f"{folder}/{trial.identity}",
                "folder": f"{folder}/tune",
            }
            for trial in trials
        ]
        ray.init(num_cpus=slots, resources={"kd_driver": slots}, log_to_driver=False, logging_level="error")
        begin = time.time()
        tuner = tune.Tuner(
            tune.with_resources(drive, {"kd_driver": 1}),
            param_space=tune.grid_search(configs),
            run_config=tune.RunConfig(storage_path=f"{folder}/tune", verbose=0),
        )
        results = tuner.fit()
        end = time.time()
        ray.shutdown()
        if results.errors:
            sys.exit(str(results.errors[0]))
        first = min(Path(config["mark"]).stat().st_mtime for config in configs)
        return end - first, first - begin


def main() -> None:
    """Print two tables: efficiency, and overhead per trial beside nested trials."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long one trial trains")
    parser.add_argument("--slots", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nested", type=int, default=4, help="how many trials also run nested; 0: none")
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    cache = ProcessCache()
    epochs = calibrate(options.seconds, cache)
    sweep = make_sweep(options.trials, epochs, options.slots)
    trials = sweep.plan().trials
    print(f"{len(trials)} trials of about {options.seconds:g} s ({epochs} epochs), {options.slots} slots\n")
    print("| repeat | bare, serial | sweep, from its first step | efficiency | warm-up before it |")
    print("|---|---|---|---|---|", flush=True)
    bare, walls = [], []
    for repeat in range(options.repeats):
        bare.append(run_bare(trials, cache))
        result = run_through_tune(sweep)
        walls.append(result.training_seconds)
        share = bare[-1] / (options.slots * walls[-1])
        print(
            f"| {repeat + 1} | {bare[-1]:.1f} s | {walls[-1]:.1f} s | {share:.2f} "
            f"| {result.warmup_seconds:.1f} s |",
            flush=True,
        )
    shares = [one / (options.slots * wall) for one, wall in zip(bare, walls, strict=True)]
    each = statistics.median(bare) / len(trials)
    ours = statistics.median(walls) * options.slots / len(trials) - each
    print(f"\nmedian efficiency {statistics.median(shares):.2f}\n")
    print("| arrangement | overhead per trial |\n|---|---|")
    print(f"| resident actors (ray-kd) | {ours:.2f} s |", flush=True)
    if options.nested:
        some = trials[: options.nested]
        wall, before = run_nested(some, options.slots)
        nested = wall * options.slots / len(some) - each
        print(f"| nested Tune + TorchTrainer, {len(some)} of the same trials | {nested:.2f} s |")
        print(f"\nnested trials' warm-up before the first step: {before:.1f} s")


if __name__ == "__main__":
    main()
