"""What utility makes of a useful path and of two spoilt ones, seed by seed, while a student trains.

    python benchmarks/utility_seeds.py                      # four seeds, 50 epochs
    python benchmarks/utility_seeds.py --seeds 3 2000       # these

A student of the digits (width 3, 200 labels) learns from soft targets, from shuffled ones and from
shuffled attention; half of its 200 steps measure. A seed stands for all of them: the student's, its views',
its data's and its teacher's. On other processors floats are added up in another order; this one can stand for
some of them: ``ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from ray_kd import RunSpec, distill

PATHS = [
    "soft_target",
    {"name": "soft_target", "corrupt": "shuffle", "label": "shuffled"},
    {"name": "attention_transfer", "corrupt": "shuffle", "label": "noise"},
]


def trained(seed: int, epochs: int, storage: str) -> list[dict[str, Any]]:
    """What a training recorded of its paths, epoch by epoch."""
    spec = RunSpec.parse(
        {
            "dataset": {"name": "digits", "labels": 200, "seed": seed},
            "views": {"name": "shift", "count": 4, "seed": seed},
            "student": {"name": "digits_cnn", "width": 3},
            "teacher": {
                "model": {"name": "digits_cnn", "width": 12},
                "views": {"name": "affine"},
                "training": {"epochs": 20, "batch_size": 50},
                "seed": seed,
            },
            "paths": PATHS,
            "aggregation": {"name": "utility", "dense_every": 2},
            "optimizer": {"lr": 0.05},
            "training": {"epochs": epochs, "batch_size": 50, "evaluate_every": 100},
            "seed": seed,
            "storage": storage,
        }
    )
    file = Path(storage) / "runs" / distill(spec)["identity"] / "paths.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def main() -> None:
    """Print each path's t every ten epochs, and its gate and its share at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 1000])
    parser.add_argument("--epochs", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| seed | path | t, every ten epochs | gate at the end | share at the end |\n|---|---|---|---|---|")
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as storage:
            rows = trained(seed, options.epochs, storage)
        for place in range(len(PATHS)):
            mine = rows[place :: len(PATHS)]
            t = " ".join(f"{row['t']:+.1f}" for row in mine[9::10])
            end = mine[-1]
            print(f"| {seed} | {end['path']} | {t} | {end['gate']:.2f} | {end['share']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
