"""What stored targets cost and save, as ratios in one run.

    python benchmarks/targets.py                    # all of it, about a quarter of an hour of one core
    python benchmarks/targets.py epoch --repeats 3
    python benchmarks/targets.py sweep              # or bytes, sizes, reading, streaming, precompute, memory

CPU time of one thread, which other users of the machine disturb less than the clock on the wall; what is
compared takes turns in one process. Teachers are untrained: only time and bytes are measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import psutil
import torch
from torch import Tensor

from ray_kd import Outputs, RunSpec, create_path, distill
from ray_kd.data.base import Split
from ray_kd.data.batches import Batches
from ray_kd.models import create_model
from ray_kd.targets.compute import viewed
from ray_kd.targets.mapped import MappedColumn
from ray_kd.targets.stored_targets import StoredTargets
from ray_kd.teacher.live import LiveTeacher, Targets
from ray_kd.training.build import Parts, build, step_key
from ray_kd.training.loaders import make_loader
from ray_kd.training.precompute import Work, gather_work, precompute
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.training.step import Step

PATHS = ["soft_target", "attention_transfer", "feature_map", "nst"]
TURN = 20


def run_spec(storage: str, **changes: Any) -> RunSpec:
    """A student of width 4 and four paths, beside a teacher of width 48."""
    return RunSpec.parse(
        {
            "dataset": {"name": "digits", "labels": 400},
            "views": {"name": "shift", "count": 4},
            "student": {"name": "digits_cnn", "width": 4},
            "teacher": {"model": {"name": "digits_cnn", "width": 48}, "weights": "initial"},
            "paths": PATHS,
            "training": {"batch_size": 50, "epochs": 20, "evaluate_every": 20},
            "storage": storage,
            **changes,
        }
    )


class Constant:
    """Targets of one batch, whatever is asked: what no store can be faster than."""

    def __init__(self, targets: Targets) -> None:
        self.kept = targets

    def targets(self, batch: dict[str, Tensor]) -> Targets:
        """The same answer for every batch."""
        return dict(self.kept)


def turns(parts: Parts, spec: RunSpec) -> Iterator[float]:
    """CPU seconds of each turn of training steps."""
    context = local_context(spec)
    batches = Batches(parts.dataset.train, parts.views, spec.training.batch_size, 0, context.device)
    step = Step(spec, parts, context, batches.steps)
    step.module.train()
    stream = (batch for epoch in range(10**6) for batch in batches.epoch(epoch % spec.training.epochs))
    while True:
        begin = time.process_time()
        for _ in range(TURN):
            batch = next(stream)
            torch.default_generator.manual_seed(step_key(0, step.taken, 0))
            targets = parts.targets.targets(batch) if len(parts.paths) else {}
            step(batch, targets)
        step.sums.tolist()
        yield time.process_time() - begin


def side_by_side(specs: dict[str, RunSpec], repeats: int) -> dict[str, list[float]]:
    """Time of a step of each run, in steps of the first, whose targets are held in memory."""
    built = {name: build(spec, local_context(spec), ProcessCache()) for name, spec in specs.items()}
    first = next(iter(specs))
    held = built[first]
    batch = next(Batches(held.dataset.train, held.views, 50, 0, torch.device("cpu")).epoch(0))
    held.targets = Constant(held.targets.targets(batch))  # type: ignore[assignment]
    loops = {name: turns(parts, specs[name]) for name, parts in built.items()}
    ratios: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(repeats):
        spent = dict.fromkeys(loops, 0.0)
        for turn in range(26):
            for name, loop in loops.items():
                seconds = next(loop)
                spent[name] += seconds * (turn >= 1)
        for name in loops:
            ratios[name].append(spent[name] / spent[first])
    return ratios


def epoch(repeats: int) -> None:
    """Stored targets beside targets held in memory, a live teacher, and the student alone."""
    with tempfile.TemporaryDirectory() as storage:
        specs = {
            "targets held in memory": run_spec(storage),
            "stored": run_spec(storage, targets="stored"),
            "live teacher": run_spec(storage),
            "student alone": run_spec(storage, paths=[]),
        }
        ratios = side_by_side(specs, repeats)
    print("A step, relative to one with the targets held in memory (aim for stored: at most 1.05)")
    for name, found in ratios.items():
        print(f"  {name:24} {statistics.median(found):6.3f}   ({min(found):.3f} to {max(found):.3f})")


def sweep(repeats: int) -> None:
    """Ten strategies with a live teacher, and with its answers stored first."""
    strategies = ["equal", "adaptive", "uncertainty", "imtl_l", "inverse", "geometric", "dwa", "random"]
    strategies += ["magnitude", "stch"]
    costly = {
        "paths": ["soft_target", "attention_transfer"],
        "teacher": {"model": {"name": "digits_cnn", "width": 64}, "weights": "initial"},
    }
    with tempfile.TemporaryDirectory() as storage:
        specs = {"held": run_spec(storage, **costly), "live": run_spec(storage, **costly)}
        forward = statistics.median(side_by_side(specs, 1)["live"]) - 1
    found = []
    for _ in range(repeats):
        seconds = {}
        for source in ("live", "stored"):
            with tempfile.TemporaryDirectory() as storage:
                cache, begin = ProcessCache(), time.process_time()
                for strategy in strategies:
                    spec = run_spec(storage, targets=source, aggregation=strategy, **costly)
                    distill(spec, cache=cache)
                seconds[source] = time.process_time() - begin
        found.append(seconds["live"] / seconds["stored"])
    print("A sweep of ten strategies, 20 epochs, 4 views: seconds live over seconds stored, storing too;")
    print(
        f"the teacher's forward takes {forward:.1f} of the student's whole steps (the aim is for 2 or more)"
    )
    print(f"  {statistics.median(found):.2f}   (aim: at least 2; {min(found):.2f} to {max(found):.2f})")


@torch.no_grad()
def count_bytes(repeats: int) -> None:
    """Numbers in a sample's targets beside the teacher's raw features: ResNet-50 on CIFAR's shapes."""
    model = create_model("resnet", classes=100, channels=3, depth=50).eval()
    outputs: Outputs = model(torch.zeros(1, 3, 32, 32))
    raw = sum(feature.numel() for feature in outputs.features)
    channels = [feature.shape[1] for feature in outputs.features]
    sizes = {}
    for name in PATHS:
        path = create_path(name, student_channels=channels, teacher_channels=channels)
        sizes[name] = sum(values.numel() for values in path.target(outputs).values())
    three = sum(sizes[name] for name in ("soft_target", "attention_transfer", "feature_map"))
    print(f"Numbers for a sample and view, ResNet-50, 32x32 images; raw features of four stages: {raw:,}")
    for name, size in sizes.items():
        print(f"  {name:24} {size:9,}   {raw / size:8.1f} times less")
    print(f"  soft target + attention + feature map: {three:,}, {raw / three:.1f} times less (aim: 90)")


def reading(repeats: int) -> None:
    """Samples a second of a stored column beside a NumPy array in memory, gathered in random order."""
    with tempfile.TemporaryDirectory() as storage:
        spec = run_spec(storage, targets={"source": "stored", "precision": "float32"}, paths=["hint"])
        parts = build(spec, local_context(spec), ProcessCache())
        assert isinstance(parts.targets, StoredTargets)
        (column,) = parts.targets.entries["hint"].values()
        assert isinstance(column, MappedColumn)
        array = np.array(column.values)
        index = np.random.default_rng(0).permutation(len(array))
        order = [index[start : start + 50] for start in range(0, len(index), 50)] * 20
        ratios = []
        for _ in range(repeats + 1):
            times = []
            gathers: list[Callable[[np.ndarray], Any]] = [lambda i: torch.from_numpy(array[i]), column.gather]
            for gather in gathers:
                begin = time.process_time()
                for part in order:
                    gather(part)
                times.append(time.process_time() - begin)
            ratios.append(times[0] / times[1])
    ratios = ratios[1:]
    print("Reading: samples a second, relative to a NumPy array in memory (aim: at least 0.8)")
    print(f"  {statistics.median(ratios):.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")


def streaming(repeats: int) -> None:
    """Samples a second, by the clock, of batches with their targets: from the copy, the shards, Ray Data."""
    from ray_kd.cluster.connect import connect
    from ray_kd.cluster.stream import stream

    ways: dict[str, tuple[str, Any]] = {
        "mapped": ("mapped", None),
        "shards, read here": ("stream", None),
        "Ray Data, one reader": ("stream", stream),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as storage, connect():
        for _ in range(repeats):
            for name, (read, port) in ways.items():
                targets = {"source": "stored", "precision": "float32", "read": read}
                spec = run_spec(storage, targets=targets, paths=["hint"])
                context = local_context(spec)
                context.stream = port
                parts = build(spec, context, ProcessCache())
                loader = make_loader(spec, parts, context)
                batches = Batches(parts.dataset.train, parts.views, 50, 0, context.device, loader=loader)
                batches.announce(0, 0, 101)
                begin = 0.0
                for number in range(101):
                    for batch in batches.epoch(number):
                        parts.targets.targets(batch)
                    begin = begin or time.perf_counter()  # readers start in the first epoch
                found[name].append(100 * batches.steps * 50 / (time.perf_counter() - begin))
                loader.close()
    size = sum(column.encoding.nbytes for column in cast(StoredTargets, parts.targets).columns)
    print(f"Samples a second with targets of {size / 1e3:.1f} kB each, images and views included")
    for name, rates in found.items():
        print(f"  {name:22} {statistics.median(rates):9,.0f}   ({min(rates):,.0f} to {max(rates):,.0f})")


def storing(repeats: int) -> None:
    """Storing a view of the whole set beside a bare loop of the teacher over the same batches."""
    ratios = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as storage:
            views = {"name": "shift", "count": 20}
            spec = run_spec(storage, targets="stored", views=views, paths=PATHS[:3])
            context, cache = local_context(spec), ProcessCache()
            works = gather_work([spec], context, cache)
            teacher = works[0].load()
            bare_loop(works[0], teacher, 2)
            begin = time.process_time()
            for work in works:  # the training split's views; validation and test once
                bare_loop(work, teacher, work.source.views)
            bare = time.process_time() - begin
            begin = time.process_time()
            precompute([spec], context, cache)
            ratios.append((time.process_time() - begin) / bare)
    print("Storing 20 views of 400 samples, relative to a bare loop of the teacher (aim: at most 1.2)")
    print(f"  {statistics.median(ratios):.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")


def bare_loop(work: Work, teacher: LiveTeacher, views: int) -> None:
    """Show the teacher what storing shows it."""
    split: Split = getattr(work.dataset, work.source.split)
    policy = work.views if work.source.split == "train" else None
    for view in range(views):
        for part in torch.arange(len(split)).split(256):
            teacher.outputs(viewed(split, part, policy, view, teacher.device)["image"])


def own_memory() -> float:
    """What no other process and no file holds, in MB: pages of a mapped file are the system's to drop."""
    if not sys.platform.startswith("linux"):
        return float(psutil.Process().memory_full_info().uss / 2**20)
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) / 2**10


def memory(repeats: int) -> None:
    """A trial's own memory as the store grows."""
    print("Private memory of a process that reads every row, MB more than before (it should not grow)")
    for count in (4, 40):
        with tempfile.TemporaryDirectory() as storage:
            training = {"batch_size": 50, "epochs": count}
            views = {"name": "shift", "count": count}
            spec = run_spec(storage, targets="stored", views=views, training=training, paths=["hint"])
            precompute([spec], local_context(spec))
            parts = build(spec, local_context(spec), ProcessCache())
            before = own_memory()
            batches = Batches(parts.dataset.train, parts.views, 50, 0, torch.device("cpu"))
            for number in range(count):
                for batch in batches.epoch(number):
                    parts.targets.targets(batch)
            grown = own_memory() - before
            assert isinstance(parts.targets, StoredTargets)
            columns = [c for c in parts.targets.columns if isinstance(c, MappedColumn)]
            held = sum(column.values.nbytes for column in columns) / 2**20
            print(f"  store of {held:6.1f} MB: {grown:6.1f} MB")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what: dict[str, Callable[[int], None]] = {
        "epoch": epoch,
        "sweep": sweep,
        "bytes": count_bytes,
        "reading": reading,
        "streaming": streaming,
        "precompute": storing,
        "memory": memory,
    }
    parser.add_argument("what", nargs="?", choices=[*what, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, measure in what.items():
        if given.what in ("all", name):
            measure(given.repeats)


if __name__ == "__main__":
    main()
