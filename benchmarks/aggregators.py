"""Time and peak memory of a training step under each aggregator, relative to ``equal``.

    python benchmarks/aggregators.py 2>/dev/null       # every aggregator, K = 2, 5, 10 paths
    python benchmarks/aggregators.py mgda famo --rounds 9

One process, one thread. For each K all aggregators take turns (equal, then the others, then equal ...),
each a few steps of the real loop at a time; a time is the fastest of its turns over the fastest of
``equal``'s, since whatever else the machine does only adds. Memory is the highest sum of live allocations
within the first two steps, above what lay there before them: activations, gradients, optimizer and
aggregator state; on a GPU from the allocator, on a CPU from PyTorch's profiler (which chatters on stderr
and counts each allocation exactly). Students, batch and teacher are the same for all. The second table is
the Jacobian alone: K gradients as a function of K.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ray_kd.aggregation import Gradients
from ray_kd.config.registry import AGGREGATORS
from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import Batches
from ray_kd.models import create_model
from ray_kd.training.build import build
from ray_kd.training.object_records import Own
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.training.step import Step

PATHS: dict[int, list[Any]] = {2: ["soft_target", "attention_transfer"]}
PATHS[5] = [*PATHS[2], "logits", "nst", "hint"]
PATHS[10] = [*PATHS[5], "dist", "feature_map", "softmax_regression", "similarity", "pkt"]
STEPS = 2
"""Steps of one turn."""


def run_spec(paths: list[Any], aggregator: str, width: int) -> RunSpec:
    """A run of the digits' network on batches of 50."""
    return RunSpec.parse(
        {
            "dataset": {"name": "digits", "labels": 400},
            "student": {"name": "digits_cnn", "width": width},
            "teacher": {"model": {"name": "digits_cnn", "width": width}},
            "paths": paths,
            "aggregation": aggregator,
            "optimizer": {"lr": 1e-4},
            "training": {"batch_size": 50},
            "storage": tempfile.gettempdir(),
        }
    )


def stepper(spec: RunSpec) -> Callable[[], None]:
    """One step of the real loop, always on the same batch, under an untrained teacher."""
    context, cache = local_context(spec), ProcessCache()
    teacher = create_model(spec.teachers["teacher"].model, classes=10, channels=1)
    parts = build(spec, context, cache, Own(teacher=teacher))
    batches = Batches(parts.dataset.train, parts.views, spec.training.batch_size, 0, context.device)
    step = Step(spec, parts, context, batches.steps)
    step.module.train()
    parts.aggregator.begin_epoch(None)
    batch = next(iter(batches.epoch(0)))
    targets = parts.targets.targets(batch)

    def take() -> None:
        step(batch, dict(targets))

    return take


def peak_bytes(work: Callable[[], None], times: int = 1) -> int:
    """The highest sum of live allocations during some calls, above what was there before."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(times):
            work()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        for _ in range(times):
            work()
    assert profile.profiler is not None
    events: Sequence[Any] = profile.profiler.kineto_results.events()
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, size in memory:
        now += size
        most = max(most, now)
    return most


def seconds(work: Callable[[], None], times: int = STEPS) -> float:
    """Seconds of one call, over a few."""
    begin = time.perf_counter()
    for _ in range(times):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / times


def paths_for(aggregator: str, count: int) -> list[Any]:
    """K paths; K times the logits' own where a method takes no others."""
    if AGGREGATORS.get(aggregator).tensor is None:
        return PATHS[count]
    return [{"name": "soft_target", "label": f"soft_{index}"} for index in range(count)]


def compare(
    names: Sequence[str], count: int, rounds: int, width: int
) -> dict[str, tuple[float, float, float]]:
    """For each aggregator: ms per step, its ratio to equal's, and the ratio of their peaks of memory."""
    steps: dict[str, Callable[[], None]] = {}
    peaks: dict[str, int] = {}
    reference: dict[str, str] = {}

    def add(key: str, aggregator: str, paths: list[Any]) -> None:
        if key not in steps:
            steps[key] = take = stepper(run_spec(paths, aggregator, width))
            peaks[key] = peak_bytes(take, 2)  # what is made at the first step is there at the second

    for name in names:
        paths = paths_for(name, count)
        reference[name] = "equal" if paths == PATHS[count] else "equal on its own paths"
        add(reference[name], "equal", paths)
        add(name, name, paths)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, take in steps.items():
            times[name].append(seconds(take))
    return {
        name: (
            min(times[name]) * 1e3,
            min(times[name]) / min(times[reference[name]]),
            peaks[name] / peaks[reference[name]],
        )
        for name in names
    }


def jacobians(counts: Sequence[int], rounds: int, width: int) -> list[tuple[int, float, float, float, float]]:
    """K, and time and memory of K gradients, one by one and vectorised, in plain forward-backwards."""
    student = create_model(run_spec([], "equal", width).student, classes=10, channels=1)
    images, heads = torch.randn(50, 1, 8, 8), torch.randn(max(counts), 10)

    def losses(count: int) -> list[torch.Tensor]:
        logits = student(images).logits
        return [(logits @ heads[index]).square().mean() for index in range(count)]

    def plain() -> None:
        student.zero_grad()
        torch.stack(losses(1)).sum().backward()

    def jacobian(count: int, chunk: int) -> Callable[[], None]:
        given = Gradients(student.named_parameters(), chunk=chunk)

        def work() -> None:
            given.jacobian(losses(count))

        return work

    nn.Module.train(student)
    work = {(0, 0): plain} | {(k, chunk): jacobian(k, chunk) for k in counts for chunk in (1, k)}
    peaks = {key: peak_bytes(task) for key, task in work.items()}
    times: dict[tuple[int, int], list[float]] = {key: [] for key in work}
    for _ in range(rounds):
        for key, task in work.items():
            times[key].append(seconds(task, 2))
    ratio = {key: min(values) / min(times[0, 0]) for key, values in times.items()}
    return [
        (k, ratio[k, 1], peaks[k, 1] / peaks[0, 0], ratio[k, k], peaks[k, k] / peaks[0, 0]) for k in counts
    ]


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="aggregators; default: all")
    parser.add_argument("--paths", type=int, nargs="*", default=[2, 5, 10], choices=sorted(PATHS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=16, help="of student and teacher")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in AGGREGATORS.names() if not given.names or name in given.names]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"
    found = {count: compare(["equal", *names], count, given.rounds, given.width) for count in given.paths}
    base = ", ".join(f"{found[count]['equal'][0]:.1f} ms at K = {count}" for count in given.paths)
    print(f"torch {torch.__version__}, {device}; digits_cnn of width {given.width}, batch 50;")
    print(f"best of {given.rounds} rounds of {STEPS} steps; a step of `equal` takes {base}.\n")
    heads = [f"{what}, K = {count}" for count in given.paths for what in ("time", "memory")]
    print(f"| aggregator | backwards | {' | '.join(heads)} |\n|---|---|{'---|' * len(heads)}")
    for name in names:
        cells = [f"{value:.2f}" for count in given.paths for value in found[count][name][1:]]
        print(f"| {name} | {AGGREGATORS.get(name).cost} | {' | '.join(cells)} |", flush=True)
    print("\nThe Jacobian alone, in forward-backwards of one loss:\n")
    print("| K | time | memory | time, vectorised | memory, vectorised |\n|---|---|---|---|---|")
    for count, *ratios in jacobians([1, 2, 5, 10, 20], given.rounds, given.width):
        print(f"| {count} | {' | '.join(f'{value:.2f}' for value in ratios)} |")


if __name__ == "__main__":
    main()
