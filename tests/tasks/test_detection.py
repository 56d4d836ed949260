"""Metrics of detection against pycocotools and by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import TASKS
from ray_kd.outputs import Outputs
from ray_kd.paths.detectors import binary_divergence
from ray_kd.tasks import Task
from ray_kd.tasks.coco import average_precision

CLASSES = 3
ALONE: Any = (lambda sums: sums, lambda one: [one])


def task(**options: Any) -> Task:
    made: Task = TASKS.get("detection")(parse_component(TASKS, {"name": "detection", **options}), CLASSES)
    return made


class Head:
    """Detections as they were given, and a loss of known parts."""

    def __init__(self, found: dict[str, Tensor], parts: dict[str, tuple[float, float]] | None = None) -> None:
        self.found = found
        self.given = {name: (torch.tensor(a), torch.tensor(b)) for name, (a, b) in (parts or {}).items()}

    def detections(self, outputs: Outputs) -> dict[str, Tensor]:
        return self.found

    def parts(self, outputs: Outputs, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        return self.given


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    corner = random.random((count, 2)) * 100
    return np.concatenate([corner, corner + 4 + random.random((count, 2)) ** 2 * 160], 1)


def scene(seed: int, images: int = 12) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Objects of all sizes, crowds among them, and detections near some of them; some images are empty."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(images):
        objects = 0 if image in (2, 3) else int(random.integers(1, 6))
        boxes, labels = random_boxes(random, objects), random.integers(CLASSES, size=objects)
        truth.append(
            {
                "boxes": torch.tensor(boxes),
                "labels": torch.tensor(labels),
                "crowd": torch.tensor(random.random(objects) < 0.2),
                "area": torch.tensor((boxes[:, 2:] - boxes[:, :2]).prod(1) * 0.8),
            }
        )
        near = np.repeat(boxes, 3, 0) + random.normal(size=(3 * objects, 4)) * 4
        guess = np.concatenate([near, random_boxes(random, 4)]) if image not in (3, 5) else np.zeros((0, 4))
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        known = np.where(random.random(3 * objects) < 0.8, np.repeat(labels, 3), 0)
        classes = np.concatenate([known, random.integers(CLASSES, size=4)])[: len(guess)]
        found.append(
            {
                "boxes": torch.tensor(guess),
                "labels": torch.tensor(classes, dtype=torch.int64),
                "scores": torch.tensor(random.random(len(guess))),
            }
        )
    return truth, found


def lists(rows: dict[str, Tensor], *names: str) -> Any:
    return zip(*(rows[name].tolist() for name in names), strict=True)


def reference(truth: list[dict[str, Tensor]], found: list[dict[str, Tensor]]) -> np.ndarray:
    """The first six figures of pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def sides(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    objects, answers = [], []
    for image, (rows, guess) in enumerate(zip(truth, found, strict=True)):
        for label, box, crowd, area in lists(rows, "labels", "boxes", "crowd", "area"):
            entry = {"id": len(objects) + 1, "image_id": image, "category_id": label, "bbox": sides(box)}
            objects.append({**entry, "iscrowd": int(crowd), "area": area})
        for label, box, score in lists(guess, "labels", "boxes", "scores"):
            answers.append({"image_id": image, "category_id": label, "bbox": sides(box), "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": label} for label in range(CLASSES)],
            "annotations": objects,
        }
        known.createIndex()
        judge = COCOeval(known, known.loadRes(answers), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.asarray(judge.stats[:6])


@pytest.mark.parametrize("seed", range(3))
def test_precision_equals_pycocotools(seed: int) -> None:
    truth, found = scene(seed)
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
    expected = dict(zip(names, reference(truth, found), strict=True))
    metrics = average_precision(truth, found, CLASSES)
    assert metrics == pytest.approx({name: value for name, value in expected.items() if value >= 0}, abs=1e-9)
    assert 0.02 < metrics["map"] < metrics["map50"] < 0.98, "the scene tells good from bad"


def test_nothing_found_and_nothing_to_find() -> None:
    truth, found = scene(0)
    nothing = [{k: v[:0] for k, v in rows.items()} for rows in found]
    metrics = average_precision(truth, nothing, CLASSES)
    assert metrics["map"] == metrics["map_small"] == 0
    empty = [{k: v[:0] for k, v in rows.items()} for rows in truth]
    assert average_precision(empty, found, CLASSES) == {"map": 0.0}
    assert average_precision(empty, nothing, CLASSES)["map"] == 0


def padded(rows: list[dict[str, Tensor]], label: str) -> dict[str, Tensor]:
    """One batch of the rows of several images."""
    size = max(len(row["labels"]) for row in rows) + 1
    found = {}
    for name in rows[0]:
        filled = torch.zeros(len(rows), size, *rows[0][name].shape[1:], dtype=rows[0][name].dtype)
        for i, row in enumerate(rows):
            filled[i, : len(row[name])] = row[name]
            if name == "labels":
                filled[i, len(row[name]) :] = -1
        found[label if name == "labels" else name] = filled
    return found


def test_the_meter_reads_batches_in_any_order_and_on_any_rank() -> None:
    truth, found = scene(1)
    whole = average_precision(truth, found, CLASSES)
    meters = [task().meter(), task().meter()]
    for start in (0, 3, 6, 9):
        rows = slice(start, start + 3)
        head = Head(padded(found[rows], "labels"), {"a": (2.0, 4.0), "b": (1.0, 0.0)})
        batch = {**padded(truth[rows], "box_label"), "sample": torch.arange(start, start + 3)}
        meters[start % 2].update(Outputs(head=head), batch, None)
    metrics = meters[0].result(ALONE[0], lambda own: [(m.images, m.sums) for m in meters])
    assert metrics.pop("loss") == pytest.approx(8 / 16 + 4 / 1), "sums over counts, a count of 0 as 1"
    assert metrics == pytest.approx(whole)


def test_fidelity() -> None:
    """Two objects; the teacher finds one and errs twice; the student repeats one of the errors."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20.0, 0, 30, 10]]])
    batch = {"boxes": boxes, "box_label": torch.tensor([[0, 1]]), "sample": torch.tensor([7])}

    def detections(*rows: tuple[float, int, float]) -> dict[str, Tensor]:
        left = torch.tensor([row[0] for row in rows])
        found = torch.stack([left, left * 0, left + 10, left * 0 + 10], 1).unsqueeze(0)
        labels, scores = torch.tensor([[row[1] for row in rows]]), torch.tensor([[row[2] for row in rows]])
        return {"boxes": found, "labels": labels, "scores": scores}

    teacher = Outputs(head=Head(detections((0, 0, 0.9), (50, 2, 0.8), (20, 2, 0.7), (80, 1, 0.1))))
    student = Outputs(head=Head(detections((0, 0, 0.8), (51, 2, 0.5), (20, 2, 0.2), (80, 1, 0.9))))
    teacher.logits = torch.tensor([[[0.0, -1, -2], [-9, -9, -9]]])
    student.logits = torch.tensor([[[1.0, 0, -2], [3, 3, 3]]])
    meter = task().meter()
    meter.update(student, batch, task().predictions(teacher))
    metrics = meter.result(*ALONE)
    assert metrics["agreement_wrong"] == 0.5, "the other repetition is not sure, the last one no error told"
    sure = [{"boxes": boxes[0, :1], "labels": torch.tensor([0])}]
    sure[0] = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [50, 0, 60, 10], [20, 0, 30, 10]]),
        "labels": torch.tensor([0, 2, 2]),
    }
    own = [{name: values[0] for name, values in student.head.found.items()}]
    assert metrics["agreement"] == pytest.approx(average_precision(sure, own, CLASSES)["map"])
    p, q = teacher.logits[0, 0].sigmoid(), student.logits[0, 0].sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    assert metrics["kl"] == pytest.approx(float(expected), rel=1e-5), "the second place is background"
    crowd = {**batch, "crowd": torch.tensor([[False, True]]), "box_label": torch.tensor([[0, 2]])}
    meter = task().meter()
    meter.update(student, crowd, task().predictions(teacher))
    assert meter.result(*ALONE)["agreement_wrong"] == 1.0, "what lies in a crowd is no error"
    meter = task(sure=0.95).meter()
    meter.update(student, batch, task().predictions(teacher))
    assert not {"agreement", "agreement_wrong"} & meter.result(*ALONE).keys()


def test_the_divergence_is_0_at_the_teacher_alone_and_finite_far_away() -> None:
    logits = torch.linspace(-200, 200, 9)
    assert binary_divergence(logits, logits).abs().max() == 0
    far = binary_divergence(logits, -logits)
    assert far.isfinite().all()
    assert (far >= 0).all()


def test_a_teacher_at_chance_is_noticed_and_a_classifier_refused() -> None:
    assert task().chance({"map50": 0.001}) is not None
    assert task().chance({"map50": 0.2}) is None
    assert task().chance({"map": 0.0}) is None, "nothing to be found is no chance"
    with pytest.raises(UserError, match="no detector"):
        task().loss(Outputs(logits=torch.zeros(2, 3)), {})
