"""The weights of both forms of Adaptive Distillation over a training: the figure of docs/aggregation.md.

    python benchmarks/adaptive_forms.py            # writes docs/images/adaptive_verbatim.png

Trains one student on the digits under ``verbatim: true`` and under the default, with the published
optimizer and the real loop, and draws the effective weight of each path beside 1/L, where both settle.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ray_kd.analysis.plot_style import (
    GREY,
    WIDTH,
    legend_below,
    looks_of,
    plain_log_axis,
    render,
    style,
    words,
)
from ray_kd.config.spec import RunSpec
from ray_kd.training.distill import distill

PATHS = ["soft_target", "logits", "attention_transfer", "nst"]
FORMS: dict[str, dict[str, Any]] = {
    "verbatim: as published": {"name": "adaptive", "verbatim": True},
    "default: its own steps, smoothed, within limits": {"name": "adaptive"},
}


def rows_of(aggregation: dict[str, Any], epochs: int, storage: str) -> list[dict[str, Any]]:
    """Each path's mean loss and weight in each epoch of one run."""
    spec = RunSpec.parse(
        {
            "dataset": {"name": "digits", "labels": 400},
            "views": {"name": "shift"},
            "student": {"name": "digits_cnn", "width": 4},
            "teacher": {
                "model": {"name": "digits_cnn", "width": 16},
                "dataset": {"labels": 800},
                "training": {"epochs": 30, "batch_size": 50},
            },
            "paths": PATHS,
            "aggregation": aggregation,
            "optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
            "training": {"epochs": epochs, "batch_size": 50},
            "storage": storage,
        }
    )
    summary = distill(spec)
    file = Path(storage) / "runs" / summary["identity"] / "paths.jsonl"
    print(f"{aggregation}: validation top-1 {summary['last']['val']['top1']:.3f} after {epochs} epochs")
    return [json.loads(line) for line in file.read_text().splitlines()]


def draw(runs: dict[str, list[dict[str, Any]]]) -> bytes:
    """One panel for each form, on one logarithmic scale."""
    with style():
        figure = Figure(figsize=(WIDTH, 2.9))
        panels = figure.subplots(1, len(runs), sharey=True)
        handles = []
        for panel, (title, rows) in zip(panels, runs.items(), strict=True):
            for path, (colour, line) in zip(PATHS, looks_of(len(PATHS)), strict=True):
                mine = [row for row in rows if row["path"] == path]
                epochs = [row["epoch"] for row in mine]
                panel.plot(epochs, [1 / row["loss"] for row in mine], color=colour, lw=3.5, alpha=0.25)
                panel.plot(epochs, [row["weight"] for row in mine], color=colour, linestyle=line)
                if panel is panels[0]:
                    handles.append(Line2D([], [], color=colour, linestyle=line, label=words(path)))
            panel.set_title(title, loc="left")
            panel.set_xlabel("epoch")
            plain_log_axis(panel)
        panels[0].set_ylabel("weight on the raw loss (epoch mean)")
        handles.append(Line2D([], [], color=GREY, lw=3.5, alpha=0.35, label="1 / loss of the epoch"))
        legend_below(figure, handles, most=5)
        return render(figure, "adaptive_verbatim", "", "").png


def main() -> None:
    """Train both, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--storage", help="where the runs are kept; default: a folder that is thrown away")
    parser.add_argument("--out", type=Path, default=Path("docs/images/adaptive_verbatim.png"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            title: rows_of(aggregation, given.epochs, given.storage or folder)
            for title, aggregation in FORMS.items()
        }
    for title, rows in runs.items():
        for path in PATHS:
            mine = [row for row in rows if row["path"] == path]
            most = max(row["weight"] * row["loss"] for row in mine)
            print(
                f"{title}; {path}: weight {mine[0]['weight']:.3g} -> {mine[-1]['weight']:.3g}, "
                f"largest weight x loss {most:.2f}, at the end {mine[-1]['weight'] * mine[-1]['loss']:.2f}"
            )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(draw(runs))
    print(f"{given.out}: {given.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
