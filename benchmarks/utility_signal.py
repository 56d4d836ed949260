"""How well utility's signal, and what could stand in its place, tells useful paths from spoilt ones.

    python benchmarks/utility_signal.py                     # three seeds, 240 steps
    python benchmarks/utility_signal.py --seeds 1 --steps 120

A student of the digits (width 4, 400 labels) learns from soft targets and attention transfer, equally
strong and always on. At every step the slopes of these paths and of spoilt copies, which it does not
feel, are measured along the task gradient in three ways: on another batch at the same parameters (what
utility does), on the same batch, and along the task gradient kept from the step before. Each gives
three t-statistics: without a placebo, minus the placebo, and minus the placebo in its own standard
deviations. A useful path should stand far from 0, a spoilt one within about 2.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_kd.aggregation import Gradients, utility_evidence
from ray_kd.aggregation.probe import slopes
from ray_kd.aggregation.utility import Utility
from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import Batches
from ray_kd.training.build import build, step_key
from ray_kd.training.distill import ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.training.step import Step

RUN = Path(__file__).parents[1] / "sweeps" / "runs" / "digits.yaml"
UNFELT = 1e-6
SPOILT = [
    {"name": name, "corrupt": kind, "label": f"{name}, {kind}", "weight": UNFELT}
    for name in ("soft_target", "attention_transfer")
    for kind in ("shuffle", "shuffle_fixed", "noise")
]
WAYS = ("other batch", "same batch", "gradient of the step before")


class Recorder(Utility):
    """utility that looks in three ways and judges by none."""

    name = "utility"
    seen: dict[str, list[Any]]
    last: tuple[Tensor, float] | None = None

    def measure(self, direction: Tensor, length: float, gradients: Gradients) -> None:
        ways: dict[str, tuple[Tensor, float, bool]] = {
            "other batch": (direction, length, False),
            "same batch": (direction, length, True),
        }
        if self.last is not None:
            ways["gradient of the step before"] = (*self.last, True)
        for way, (along, size, same) in ways.items():
            if gradients.evaluate is None:
                raise TypeError("the loop offers evaluate")
            found = slopes(
                gradients.parameters,
                along,
                gradients.evaluate,
                self.losses,
                reach=self.options.reach,
                same=same,
                placebo=True,
            )
            rows = found.new_zeros(2, len(self.names)).index_add(1, self.positions, found)
            self.seen.setdefault(way, []).append(rows.numpy() / (self.memory["norms"] * size))
        self.last = (direction.clone(), length)


def recorded(seed: int, steps: int, storage: str) -> Recorder:
    """Train for so many steps and look at each."""
    data = RunSpec.load(RUN).to_dict()
    data.update(
        paths=["soft_target", "attention_transfer", *SPOILT],
        aggregation={"name": "utility", "dense": steps, "dense_every": 1},
        seed=seed,
        storage=storage,
    )
    data["training"]["epochs"] = 160
    spec = RunSpec.parse(data)
    context, cache = local_context(spec), ProcessCache()
    ensure_teachers(spec, context, cache)
    parts = build(spec, context, cache)
    known = parts.aggregator
    weights = {name: UNFELT if "," in name else 1.0 for name in known.names}
    recorder = Recorder(known.options, known.losses, weights, seed)
    recorder.seen, parts.aggregator = {}, recorder
    batches = Batches(parts.dataset.train, parts.views, spec.training.batch_size, seed, context.device)
    step = Step(spec, parts, context, batches.steps)
    step.module.train()
    while step.taken < steps:
        for batch in batches.epoch(step.taken // batches.steps):
            torch.default_generator.manual_seed(step_key(seed, step.taken, 0))
            step(batch, parts.targets.targets(batch))
    return recorder


def main() -> None:
    """Print a table for each way of looking: mean slopes and t-statistics of every path."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=240)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as storage:
        runs = [recorded(seed, options.steps, storage) for seed in range(options.seeds)]
    print(f"{options.steps} steps, seeds 0 to {options.seeds - 1}; t: one figure for each seed\n")
    for way in WAYS:
        print(f"{way}\n\n| path | cosine | placebo's | t, no placebo | t, minus placebo | t, scaled |")
        print("|---|---|---|---|---|---|")
        for row, name in enumerate(runs[0].names):
            pairs = [np.stack(run.seen[way])[:, :, [row]] for run in runs]
            real, placebo = (np.mean([pair[:, side] for pair in pairs]) for side in (0, 1))
            cells = [f"{real:+.3f}", f"{placebo:+.3f}"]
            for form in ("none", "plain", "scaled"):
                found = []
                for pair in pairs:
                    known = utility_evidence.empty(1)
                    for both in pair:
                        known = utility_evidence.observed(known, both[0], both[1], memory=1e9)
                    found.append(f"{utility_evidence.statistic(known, form)[0]:+.1f}")  # type: ignore[arg-type]
                cells.append(" ".join(found))
            print(f"| {name} | {' | '.join(cells)} |")
        print(flush=True)


if __name__ == "__main__":
    main()
