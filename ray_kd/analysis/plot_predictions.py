"""Masks and boxes of truth, teacher and students on the same test images, one row for each image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou, nms

from ray_kd.analysis.headline import number
from ray_kd.analysis.plot_style import WIDTH, Picture, render, wrapped
from ray_kd.analysis.predictions import Column, Predictions
from ray_kd.outputs import IGNORE

MUTED = (
    "#CC6677",
    "#332288",
    "#DDCC77",
    "#117733",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#EE7733",
    "#AA4499",
    "#999933",
)
"""Nine of these are Paul Tol's muted scheme, made for colour vision deficiency; every region also has its
class written on it, so that no reader needs the colours."""
LEAST_SCORE = 0.3
"""Boxes with a lower score are not drawn."""
SAME_IOU = 0.7
"""Of boxes with at least this IoU only the one with the highest score is drawn, whatever the class."""
FOUND_IOU = 0.5
"""A box with at least this IoU to an object of its class is drawn solid, others are dashed."""
LEAST_PIXELS = 6
"""Regions of fewer pixels get no class number."""


def predictions_picture(found: Predictions) -> Picture:
    """One row for each image: the image, the truth, then the prediction of every network."""
    count, columns = len(found.images), [found.truth, *found.columns]
    side = WIDTH / (len(columns) + 1)
    figure = Figure(figsize=(WIDTH, side * count + 0.45))
    panels = figure.subplots(count, len(columns) + 1, squeeze=False)
    for row in range(count):
        image = _pixels(found.images[row])
        _show(panels[row][0], image)
        for place, column in enumerate(columns, start=1):
            axes = panels[row][place]
            _show(axes, image)
            if column.mask is not None:
                _mask(axes, image, column.mask[row], found.background)
            else:
                _boxes(axes, column.boxes[row], found.truth.boxes[row])
    panels[0][0].set_title("test image")
    for place, column in enumerate(columns, start=1):
        panels[0][place].set_title(_title(column, found))
    return render(figure, f"predictions_{found.task}", f"Predictions: {found.task}", _caption(found))


def _title(column: Column, found: Predictions) -> str:
    name = wrapped(column.title, 22)
    if math.isnan(column.figure):
        return name
    metric = found.comparison.metric
    return f"{name}\n{metric.title} {number(found.comparison, column.figure)} {metric.percent}".rstrip()


def _pixels(image: Tensor) -> NDArray[np.float32]:
    """An image (C, H, W) as (H, W, 3)."""
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy()


def _show(axes: Axes, image: NDArray[np.float32]) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colour(label: int) -> tuple[float, float, float]:
    return to_rgb(MUTED[label % len(MUTED)])


def _mask(axes: Axes, image: NDArray[np.float32], mask: Tensor, background: int) -> None:
    """Classes in colour over a pale image, except the background; unlabelled pixels are white."""
    shown = 0.35 * image.mean(axis=2, keepdims=True).repeat(3, axis=2) + 0.5
    shown[(mask == IGNORE).numpy()] = 1.0
    labels = [int(label) for label in mask.unique() if background <= label != IGNORE]
    for label in labels:
        where = (mask == label).numpy()
        shown[where] = 0.2 * shown[where] + 0.8 * np.array(_colour(label - background))
    axes.imshow(shown, interpolation="nearest")
    for label in labels:
        for y, x in _centres((mask == label).numpy()):
            _write(axes, x, y, str(label - background), ha="center", va="center")


def _centres(where: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """The middle of each connected region that is large enough to write on."""
    regions, count = ndimage.label(where, structure=np.ones((3, 3)))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    large = [index for index in range(1, count + 1) if sizes[index] >= LEAST_PIXELS]
    return [(float(y), float(x)) for y, x in ndimage.center_of_mass(where, regions, large)] if large else []


def _boxes(axes: Axes, found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> None:
    """Boxes with their class; dashed where there is no object of that class."""
    height = axes.get_ylim()[0] + 0.5
    kept = torch.arange(len(found["labels"]))
    if found is not truth:
        kept = nms(found["boxes"].float(), found["scores"], SAME_IOU)  # whatever the class
        kept = kept[found["scores"][kept] >= LEAST_SCORE]
    boxes, labels = found["boxes"][kept], found["labels"][kept]
    for box, label in zip(boxes, labels.tolist(), strict=True):
        same = truth["boxes"][truth["labels"] == label]
        right = len(same) > 0 and float(box_iou(box.unsqueeze(0).float(), same.float()).max()) >= FOUND_IOU
        x0, y0, x1, y1 = (box - 0.5).tolist()  # pixel i is drawn from i - 0.5 to i + 0.5
        line: Any = "-" if right else (0, (2.5, 1.5))
        outline = {"fill": False, "linewidth": 1.6, "linestyle": line}
        effect = [withStroke(linewidth=2.8, foreground="white")]
        axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, edgecolor=_colour(label), path_effects=effect, **outline)
        )
        inside = y0 < 0.12 * height
        _write(axes, x0 + 0.4, y0 + 0.3 if inside else y0 - 0.3, str(label), va="top" if inside else "bottom")


def _write(axes: Axes, x: float, y: float, text: str, **where: Any) -> None:
    effect = [withStroke(linewidth=2.0, foreground="white")]
    axes.text(x, y, text, fontsize=7.5, fontweight="bold", path_effects=effect, clip_on=True, **where)


def _caption(found: Predictions) -> str:
    metric = found.comparison.metric
    text = (
        f"The first {len(found.images)} test images, not selected. Numbers: test {metric.title} of the "
        f"weights shown (best on validation); students of seed {found.seed}. "
    )
    if found.task == "segmentation":
        return text + "Colours and digits are classes; white pixels have no label."
    return text + (
        f"Boxes with a score of at least {LEAST_SCORE}; of boxes with an IoU of {SAME_IOU} the one with the "
        f"highest score. Dashed: no object of that class with an IoU of {FOUND_IOU}. Digits are classes."
    )
