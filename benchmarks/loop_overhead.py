"""Seconds per step of ray-kd's loop against a bare PyTorch loop that does the same arithmetic.

    python benchmarks/loop_overhead.py            # the demo's student, and ResNet-18 at 32x32
    python benchmarks/loop_overhead.py --repeats 9 digits

Both loops train the same student with the same views, teacher, paths and optimizer in one process. A
repeat is a dozen turns of about a tenth of a second each (bare, ours, ours, bare, bare ...), so that a
machine whose speed drifts slows both alike. The bare loop is written as one would without a framework:
views of an epoch drawn at once, fused SGD.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.batches import Batches
from ray_kd.data.order import epoch_order
from ray_kd.models import create_model
from ray_kd.training.build import Parts, build, step_key
from ray_kd.training.object_records import Own
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext, local_context
from ray_kd.training.schedule import learning_rate
from ray_kd.training.step import Step

DIGITS = {
    "dataset": {"name": "digits", "labels": 400},
    "views": {"name": "shift", "count": 20},
    "student": {"name": "digits_cnn", "width": 4},
    "teacher": {"model": {"name": "digits_cnn", "width": 32}},
    "training": {"batch_size": 50, "epochs": 50},
}
RESNET = {
    "dataset": {"name": "digits", "labels": 400},  # replaced by 16 random images of 32x32
    "student": {"name": "resnet", "depth": 18},
    "teacher": {"model": {"name": "resnet", "depth": 34}},
    "training": {"batch_size": 8, "epochs": 50},
}
ALL = ["soft_target", "logits", "attention_transfer", "nst"]
CASES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "digits, student alone": (DIGITS, [], "fixed"),
    "digits, soft target": (DIGITS, ["soft_target"], "fixed"),
    "digits, four paths, adaptive": (DIGITS, ALL, "adaptive"),
    "resnet18, student alone": (RESNET, [], "fixed"),
    "resnet18, four paths, adaptive": (RESNET, ALL, "adaptive"),
}


def images_32() -> Dataset:
    """Random images of CIFAR's shape."""
    dataset = Dataset()
    split = TensorSplit(torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))
    dataset.train = dataset.validation = dataset.test = split
    dataset.classes, dataset.channels = 10, 3
    return dataset


def prepare(case: dict[str, Any], paths: list[str], aggregation: str) -> tuple[RunSpec, RunContext, Parts]:
    """A run's parts with an untrained teacher: only time is measured."""
    folder = tempfile.mkdtemp()
    spec = RunSpec.parse({**case, "paths": paths, "aggregation": aggregation, "storage": folder})
    dataset = images_32() if case is RESNET else None
    context, cache = local_context(spec), ProcessCache()
    shape = dataset or cache.dataset(spec.dataset, context.device)
    teacher = create_model(spec.teachers["teacher"].model, classes=10, channels=shape.channels)
    return spec, context, build(spec, context, cache, Own(teacher=teacher, dataset=dataset))


def ours(spec: RunSpec, context: RunContext, parts: Parts) -> Callable[[int, int], float]:
    """Seconds per step of our loop."""
    batches = Batches(parts.dataset.train, parts.views, spec.training.batch_size, 0, context.device)
    step = Step(spec, parts, context, batches.steps)
    step.module.train()

    def run(first: int, count: int) -> float:
        begin = time.perf_counter()
        for epoch in range(first, first + count):
            for batch in batches.epoch(epoch):
                torch.default_generator.manual_seed(step_key(0, step.taken, 0))
                step(batch, parts.targets.targets(batch))
            step.sums.tolist()
            step.sums = step.empty_sums()
        return (time.perf_counter() - begin) / (count * batches.steps)

    return run


def bare_losses(parts: Parts, adapters: Any, outputs: Any, teacher: Any) -> list[Tensor]:
    """The four paths by hand, sums over stages."""

    def attention(feature: Tensor) -> Tensor:
        energy = feature.pow(2).sum(1)
        return energy / (energy.flatten(1).norm(dim=1) + 1e-6)[:, None, None]

    def gramian(feature: Tensor) -> Tensor:
        flat = F.normalize(feature.flatten(2), dim=2)
        return flat @ flat.mT

    pairs = list(zip(outputs.features, teacher.features, strict=True))
    soft = F.kl_div(
        F.log_softmax(outputs.logits / 4, 1),
        F.log_softmax(teacher.logits / 4, 1),
        reduction="batchmean",
        log_target=True,
    )
    losses: dict[str, Callable[[], Any]] = {
        "soft_target": lambda: soft * 16,
        "logits": lambda: F.mse_loss(outputs.logits, teacher.logits),
        "attention_transfer": lambda: sum(F.mse_loss(attention(s), attention(t)) for s, t in pairs),
        "nst": lambda: sum(
            F.mse_loss(gramian(adapter(s)), gramian(t))
            for adapter, (s, t) in zip(adapters, pairs, strict=True)
        ),
    }
    return [losses[str(path.label)]() for path in parts.paths]


def bare(spec: RunSpec, parts: Parts) -> Callable[[int, int], float]:
    """Seconds per step of a loop written by hand."""
    data, views, size = parts.dataset.train, parts.views, spec.training.batch_size
    student, judge = parts.student, next(iter(parts.teachers.values()), None)
    adapters = [m for path in parts.paths for m in getattr(path, "adapters", nn.ModuleDict()).values()]
    alphas = torch.zeros(len(parts.paths), requires_grad=True)
    trained = [*student.parameters(), *(p for adapter in adapters for p in adapter.parameters())]
    if spec.aggregation.component_name == "adaptive":
        trained.append(alphas)
    sgd = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    steps = len(data) // size
    student.train()

    def run(first: int, count: int) -> float:
        begin = time.perf_counter()
        for epoch in range(first, first + count):
            order = epoch_order(len(data), size, 0, epoch)
            many = data.gather(order.flatten())
            images = views.apply(many["image"], many["sample"], views.of_epoch(epoch)).split(size)
            total = torch.zeros(())
            for index, (image, label) in enumerate(zip(images, many["label"].split(size), strict=True)):
                sgd.param_groups[0]["lr"] = learning_rate(
                    spec.schedule, 0.1, epoch * steps + index, steps, spec.training.epochs
                )
                sgd.zero_grad()
                outputs = student(image)
                loss = F.cross_entropy(outputs.logits, label)
                if len(parts.paths) and judge is not None:
                    with torch.no_grad():
                        teacher = judge.model(image)
                    losses = torch.stack(bare_losses(parts, adapters, outputs, teacher))
                    if spec.aggregation.component_name == "adaptive":
                        loss = loss + (torch.exp(-alphas) * losses).sum() + alphas.sum()
                    else:
                        loss = loss + losses.sum()
                loss.backward()
                sgd.step()
                total += loss.detach()
            total.item()
        return (time.perf_counter() - begin) / (count * steps)

    return run


def measure(
    loops: dict[str, Callable[[int, int], float]], repeats: int, seconds: float, epochs: int
) -> dict[str, list[float]]:
    """Seconds per step of each loop, for each repeat the mean over its turns of so many epochs."""
    for loop in loops.values():
        loop(0, epochs)  # the first turn loads things
    begin = time.perf_counter()
    for loop in loops.values():
        loop(0, epochs)
    turns = 2 * max(1, round(seconds / (time.perf_counter() - begin)))
    times: dict[str, list[float]] = {name: [] for name in loops}
    for repeat in range(repeats):
        spent = dict.fromkeys(loops, 0.0)
        for turn in range(turns):
            order = list(loops) if turn % 2 == 0 else list(loops)[::-1]
            for name in order:
                spent[name] += loops[name]((repeat * turns + turn) * epochs, epochs)
        for name, total in spent.items():
            times[name].append(total / turns)
    return times


def main() -> None:
    """Print a table: seconds per step of both, and the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", nargs="?", default="", help="only cases whose name starts so")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each loop in one repeat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, median of {options.repeats} interleaved repeats\n")
    print("| case | bare ms/step | ray-kd ms/step | ratio (min-max) |\n|---|---|---|---|")
    for name, (case, paths, aggregation) in CASES.items():
        if not name.startswith(options.case):
            continue
        spec, context, parts = prepare(case, paths, aggregation)
        loops = {"bare": bare(spec, parts)}
        spec, context, parts = prepare(case, paths, aggregation)
        loops["ours"] = ours(spec, context, parts)
        times = measure(loops, options.repeats, options.seconds, 1 if case is RESNET else 4)
        ratios = [a / b for a, b in zip(times["ours"], times["bare"], strict=True)]
        print(
            f"| {name} | {statistics.median(times['bare']) * 1e3:.3f} "
            f"| {statistics.median(times['ours']) * 1e3:.3f} "
            f"| {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
