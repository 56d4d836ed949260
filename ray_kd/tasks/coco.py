"""Mean average precision as COCO defines it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ray_kd.boxes import area

Rows = Mapping[str, Tensor]
"""One image's boxes (n, 4) and labels (n,), with scores (n,), or with area (n,) and crowd (n,)."""

NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large")


def average_precision(truth: Sequence[Rows], found: Sequence[Rows], classes: int) -> dict[str, float]:
    """COCO's mean average precision of detections against the true objects.

    ``map`` is the mean over IoU thresholds 0.50, 0.55 ... 0.95 and the classes that occur, with at most
    100 detections of an image; ``map50`` and ``map75`` at one threshold; ``map_small`` below 32x32 pixels,
    ``map_medium`` below 96x96, ``map_large`` above. The metric of a size without objects is left out.
    Without any object ``map`` is 0. A detection inside a crowd is ignored.

    Source: Lin et al., ECCV 2014, arXiv 1405.0312, as faster-coco-eval computes it.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # imported here, since the import takes half a second

    objects = [entry for image, rows in enumerate(truth) for entry in _objects(image, rows)]
    known = COCO(
        {
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": label, "name": str(label)} for label in range(classes)],
            "annotations": [{"id": number, **entry} for number, entry in enumerate(objects, start=1)],
        },
        print_function=_silent,
    )
    detections = [entry for image, rows in enumerate(found) for entry in _detections(image, rows)]
    judge = COCOeval_faster(known, known.loadRes(detections), "bbox", print_function=_silent)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    metrics = {name: float(value) for name, value in zip(NAMES, judge.stats[:6], strict=True) if value >= 0}
    return metrics or {"map": 0.0}


def _objects(image: int, rows: Rows) -> list[dict[str, Any]]:
    sizes = rows["area"] if "area" in rows else area(rows["boxes"])
    crowd = rows.get("crowd", sizes < 0)
    return [
        {"image_id": image, "category_id": label, "bbox": box, "area": size, "iscrowd": int(many)}
        for label, box, size, many in zip(
            rows["labels"].tolist(), _sides(rows["boxes"]), sizes.tolist(), crowd.tolist(), strict=True
        )
    ]


def _detections(image: int, rows: Rows) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for label, box, score in zip(
            rows["labels"].tolist(), _sides(rows["boxes"]), rows["scores"].tolist(), strict=True
        )
    ]


def _sides(boxes: Tensor) -> list[list[float]]:
    """Boxes as COCO writes them: left, top, width, height."""
    boxes = boxes.double().cpu()
    sides = boxes.clone()
    sides[:, 2:] -= boxes[:, :2]
    found: list[list[float]] = sides.tolist()
    return found


def _silent(*text: Any) -> None:
    return None
