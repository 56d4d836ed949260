"""What utility's measurements cost: time of its first steps relative to equal weights, K = 4 paths.

    python benchmarks/utility_cost.py                  # 1,000 steps, three students
    python benchmarks/utility_cost.py digits --repeats 3 --steps 2000

Both train the same student on the same batches from the first step on, in one process and in turns of
20 steps each, so that a machine whose speed drifts slows both. The teacher is untrained: only time is
measured, CPU time of one thread, which other users of the machine disturb less than the clock on the
wall. Views and the teacher's forward, the same for both, are counted too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch

from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import Batches
from ray_kd.models import create_model
from ray_kd.training.build import build, step_key
from ray_kd.training.object_records import Own
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.training.step import Step

PATHS = ["soft_target", "logits", "attention_transfer", "nst"]
STUDENTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "digits, width 4": ({"name": "digits_cnn", "width": 4}, {"name": "digits_cnn", "width": 16}, 50),
    "digits, width 16": ({"name": "digits_cnn", "width": 16}, {"name": "digits_cnn", "width": 32}, 50),
    "digits, width 32": ({"name": "digits_cnn", "width": 32}, {"name": "digits_cnn", "width": 64}, 100),
}
TURN = 20


def steps_of(case: str, aggregation: str, total: int, seed: int) -> Iterator[float]:
    """CPU seconds of each turn of steps, from the first step on."""
    student, teacher, batch_size = STUDENTS[case]
    spec = RunSpec.parse(
        {
            "dataset": {"name": "digits", "labels": 400},
            "views": {"name": "shift", "count": 20},
            "student": student,
            "teacher": {"model": teacher},
            "paths": PATHS,
            "aggregation": aggregation,
            "training": {"batch_size": batch_size, "epochs": 1 + total // (400 // batch_size)},
            "seed": seed,
            "storage": tempfile.mkdtemp(),
        }
    )
    context = local_context(spec)
    own = Own(teacher=create_model(spec.teachers["teacher"].model, classes=10, channels=1))
    parts = build(spec, context, ProcessCache(), own)
    batches = Batches(parts.dataset.train, parts.views, batch_size, seed, context.device)
    step = Step(spec, parts, context, batches.steps)
    step.module.train()
    stream = (batch for epoch in range(spec.training.epochs) for batch in batches.epoch(epoch))
    while step.taken < total:
        begin = time.process_time()
        for _ in range(TURN):
            batch = next(stream)
            torch.default_generator.manual_seed(step_key(seed, step.taken, 0))
            step(batch, parts.targets.targets(batch))
        step.sums.tolist()
        yield time.process_time() - begin


def main() -> None:
    """Print a table: milliseconds per step of both, and the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", nargs="?", default="", help="only students whose name starts so")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {options.steps} steps, {len(PATHS)} paths\n")
    print("| student | equal ms/step | utility ms/step | ratio (min-max) | first quarter |")
    print("|---|---|---|---|---|")
    for case in STUDENTS:
        if not case.startswith(options.case):
            continue
        rows = []
        for seed in range(options.repeats):
            loops = [steps_of(case, name, options.steps, seed) for name in ("equal", "utility")]
            turns = list(zip(*loops, strict=True))
            quarter = turns[: len(turns) // 4]
            rows.append([sum(times) for times in zip(*turns, strict=True)])
            rows[-1] += [rows[-1][1] / rows[-1][0], sum(b for _, b in quarter) / sum(a for a, _ in quarter)]
        equal, ours, ratio, early = (statistics.median(column) for column in zip(*rows, strict=True))
        ratios = [row[2] for row in rows]
        print(
            f"| {case} | {equal / options.steps * 1e3:.2f} | {ours / options.steps * 1e3:.2f} "
            f"| {ratio:.3f} ({min(ratios):.3f}-{max(ratios):.3f}) | {early:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
