"""What teacher and students of a sweep predict on the same test images, from the weights on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.run_files import parse_spec
from ray_kd.config.errors import UserError, unknown
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.outputs import Outputs
from ray_kd.tasks.segmentation import upsampled
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.trained import trained_student

DENSE = ("segmentation", "detection")
"""Tasks whose predictions are pictures."""


@dataclass(frozen=True)
class Column:
    """The predictions of one network on the chosen images.

    Attributes:
        figure: its test metric, nan where there is none.
        mask: classes (N, H, W), of segmentation.
        boxes: of detection, for each image boxes (n, 4), labels (n,) and scores (n,), best first.
    """

    title: str
    figure: float
    mask: Tensor | None = None
    boxes: Sequence[Mapping[str, Tensor]] = ()


@dataclass(frozen=True)
class Predictions:
    """The chosen test images of one task with the truth and the predictions of teacher and students.

    Attributes:
        images: (N, C, H, W) in [0, 1].
        truth: the labels, as a column.
        background: number of the first classes of a mask that are background: 1 where the dataset's boxes
            have one class fewer, else 0.
    """

    task: str
    comparison: Comparison
    images: Tensor
    truth: Column
    columns: tuple[Column, ...]
    seed: int
    background: int = 0


def predict(
    part: Records, comparison: Comparison, root: Folder, strategy: str | None = None, count: int = 4
) -> Predictions:
    """What teacher, baseline and ``strategy`` predict on the first ``count`` test images.

    Both students are of the smallest seed that both finished; all weights are those best on validation.

    Args:
        strategy: a cell's name; default: the cell with the best mean other than the baseline.

    Raises:
        UserError: no such strategy, no finished trial of it, or weights that are gone.
    """
    baseline = comparison.baseline
    others = {cell.name: cell for cell in comparison.cells if cell.n and cell is not baseline}
    if baseline is None or not others:
        raise UserError(f"{comparison.plan.name}: pictures need a finished baseline and a finished strategy.")
    sign = 1.0 if comparison.metric.mode == "max" else -1.0
    chosen = strategy or max(others, key=lambda name: sign * others[name].best.mean)
    if chosen not in others:
        raise unknown("strategy", chosen, list(others), where=f"the sweep '{comparison.plan.name}'")
    common = sorted(set(baseline.seeds) & set(others[chosen].seeds))
    if not common:
        raise UserError(f"{comparison.plan.name}: “{chosen}” and “{baseline.name}” have no seed in common.")
    seed, trials = common[0], part.trials[part.trials["status"] == "finished"]
    cache, device = ProcessCache(), torch.device("cpu")
    specs = {name: _spec(trials, root, name, seed) for name in (baseline.name, chosen)}
    identity, spec = specs[chosen]
    data = cache.dataset(spec.dataset, device)
    batch = data.test.gather(torch.arange(min(count, len(data.test))))
    task = spec.task.component_name
    columns = []
    if spec.paths:
        name = spec.teacher_of(spec.active_paths()[0])
        teacher = cache.teacher(spec, name, root.store, device)
        figure = _figure(trials, spec, name, comparison.metric.name)
        columns.append(_column("teacher", figure, task, teacher.outputs(batch["image"]), batch))
    for title, (identity, own) in specs.items():
        outputs = trained_student(own, identity, data, root.store)(batch["image"])
        value = {**baseline.seeds} if title == baseline.name else {**others[chosen].seeds}
        columns.append(_column(title, value[seed], task, outputs, batch))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    images = (batch["image"] * std + mean).clamp(0, 1)
    truth, background = _truth(task, batch), int(task == "segmentation" and _has_background(data))
    return Predictions(task, comparison, images, truth, tuple(columns), seed, background)


def _has_background(data: Dataset) -> bool:
    return "detection" in data.tasks and data.classes_of("segmentation") > data.classes_of("detection")


def _spec(trials: pd.DataFrame, root: Folder, cell: str, seed: int) -> tuple[str, RunSpec]:
    mine = trials[(trials["cell"] == cell) & (trials["seed"] == seed) & (trials["phase"] == "compare")]
    identity = str(mine.iloc[0]["identity"])
    return identity, RunSpec.parse(parse_spec(root.text(f"runs/{identity}/spec.yaml")), where=identity)


def _figure(trials: pd.DataFrame, spec: RunSpec, teacher: str, metric: str) -> float:
    """The test metric of a teacher's own run; nan where it has none."""
    if spec.teachers[teacher].weights is not None:
        return float("nan")
    mine = trials[trials["identity"] == spec.teacher_run(teacher).identity()]
    return float(mine.iloc[0][f"best_test_{metric}"]) if len(mine) else float("nan")


@torch.no_grad()
def _column(title: str, figure: float, task: str, outputs: Outputs, batch: Mapping[str, Tensor]) -> Column:
    if task == "segmentation":
        assert outputs.logits is not None
        return Column(title, figure, mask=upsampled(outputs.logits, batch["mask"]).argmax(dim=1))
    assert outputs.head is not None
    return Column(title, figure, boxes=_rows(outputs.head.detections(outputs)))


def _truth(task: str, batch: Mapping[str, Tensor]) -> Column:
    if task == "segmentation":
        return Column("truth", float("nan"), mask=batch["mask"])
    labels = batch["box_label"]
    given = {"boxes": batch["boxes"], "labels": labels, "scores": torch.ones(labels.shape)}
    return Column("truth", float("nan"), boxes=_rows(given))


def _rows(found: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Image by image, without padding."""
    there = found["labels"] >= 0
    return [{name: values[row][there[row]] for name, values in found.items()} for row in range(len(there))]
