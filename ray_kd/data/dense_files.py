"""What the datasets of masks and boxes in files have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ray_kd.data.files import FileOptions, Files
from ray_kd.data.image_files import OddBoxes, Picture, read_mask, read_picture, shown, turned
from ray_kd.data.masks import class_numbers

Span = tuple[float, float] | None

BEYOND = (2.0, 0.01)
"""How far a box may reach beyond its picture, as rounding does in real sets: pixels, or a share of the side
where that is more."""


class BoxOptions(FileOptions):
    """Options of every dataset of boxes in files."""

    outside: Literal["refuse", "clip"] = "refuse"
    """What becomes of a box that reaches beyond its image by more than 2 pixels, or 1 % of the side: an
    error, or it is cut off at the border. One that lies outside as a whole is an error."""


class MaskedImages:
    """Images with a mask of classes each.

    Args:
        table: the class (or IGNORE) of each number in the files (256,), int16; UNKNOWN: of none.
        span: black and white of images of more than 8 bits (``FileOptions.range``).
    """

    def __init__(self, images: Files, masks: Files, table: Tensor, span: Span = None) -> None:
        self.images, self.masks, self.table, self.span = images, masks, table, span

    def __len__(self) -> int:
        return len(self.images)

    def paths(self, index: int) -> tuple[str, ...]:
        return self.images[index], self.masks[index]

    def raw(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        image, file = self.paths(index)
        picture = read_picture(image, self.span)
        mask = class_numbers(file, read_mask(file), image, picture, self.table)
        return {"image": picture.values, "mask": tv_tensors.Mask(mask)}


OBJECT = np.dtype([("box", "f4", 4), ("label", "i8"), ("crowd", "?"), ("area", "f4"), ("number", "i8")])
"""What is known of an object: x1, y1, x2, y2; its class; whether it stands for what an evaluation neither
asks for nor blames; its area in pixels; the number of its annotation."""


@dataclass(frozen=True)
class Annotations:
    """The objects of many images, and where they are annotated.

    Attributes:
        where: the file of annotations, or one for each image.
        word: what an object's number counts: "annotation", "object".
        sizes: height and width of each image when it was annotated (N, 2); 0: not known.
        objects: of each image (n,), of the type ``OBJECT``.
    """

    where: str | Files
    word: str
    sizes: np.ndarray
    objects: list[np.ndarray]

    def file(self, index: int) -> str:
        """Where the objects of an image are annotated."""
        return self.where if isinstance(self.where, str) else self.where[index]


class BoxedImages:
    """Images with any number of boxes each.

    Args:
        span: black and white of images of more than 8 bits (``FileOptions.range``).
        outside: what becomes of a box that reaches beyond its image by more than ``BEYOND``.
    """

    def __init__(
        self,
        images: Files,
        annotations: Annotations,
        span: Span = None,
        outside: Literal["refuse", "clip"] = "refuse",
    ) -> None:
        self.images, self.span, self.outside = images, span, outside
        counts = [len(objects) for objects in annotations.objects]
        self.most = max(counts, default=0)
        """Boxes in the fullest image."""
        # One block: millions of small arrays would take seconds to hand to a worker process.
        self._ends = np.cumsum(counts)
        self._objects = np.concatenate([*annotations.objects, np.zeros(0, OBJECT)])
        self._annotations = replace(annotations, objects=[])
        sizes = np.repeat(annotations.sizes, counts, axis=0)
        known = sizes.min(1, initial=1) > 0
        bad = np.flatnonzero(known)[self._misfits(self._objects["box"][known], sizes[known])]
        if len(bad):
            image = int(np.searchsorted(self._ends, bad[0], side="right"))
            box, size = self._objects["box"][bad[0]], tuple(annotations.sizes[image].tolist())
            raise self._misfit(image, int(bad[0]), size, len(bad), box)

    def __len__(self) -> int:
        return len(self.images)

    def paths(self, index: int) -> tuple[str, ...]:
        return (self.images[index],)

    def classes_in(self, index: int) -> list[int]:
        rows = slice(self._ends[index - 1] if index else 0, self._ends[index])
        return np.unique(self._objects["label"][rows]).tolist()

    def raw(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        picture = read_picture(self.images[index], self.span)
        rows = slice(self._ends[index - 1] if index else 0, self._ends[index])
        boxes, objects = self._fitting(index, rows, picture), self._objects[rows]
        return {
            "image": picture.values,
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes), format="XYXY", canvas_size=picture.size
            ),
            "box_label": torch.from_numpy(objects["label"].copy()),
            "crowd": torch.from_numpy(objects["crowd"].copy()),
            "area": torch.from_numpy(objects["area"].copy()),
        }

    def _fitting(self, index: int, rows: slice, picture: Picture) -> np.ndarray:
        """The boxes of an image as it stands upright, which is how annotation tools show it; where the size
        that was annotated is that of the file's own rows, they are turned with it."""
        size = picture.size
        boxes, annotated = self._objects["box"][rows].copy(), tuple(self._annotations.sizes[index].tolist())
        if min(annotated) > 0 and annotated != size:
            if annotated != picture.stored:
                raise OddBoxes(
                    f"'{self.images[index]}' is {shown(size)} pixels large, and "
                    f"'{self._annotations.file(index)}' says {shown(annotated)}: the image was resized or "
                    "turned after it was annotated, and its boxes are those of another image. Take the image "
                    "that was annotated, or bring both to one size."
                )
            boxes = turned(boxes, picture.orientation, picture.stored)
        bad = self._misfits(boxes, np.array([size]))
        if len(bad):
            raise self._misfit(index, int(rows.start + bad[0]), size, len(bad), boxes[bad[0]])
        if self.outside == "clip":
            boxes = boxes.clip(0, np.array([*size[::-1], *size[::-1]], np.float32))
        return boxes

    def _misfits(self, boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Which boxes (n, 4) lie where their pictures, height and width (n or 1, 2), are not."""
        sides = np.tile(sizes[:, ::-1], 2).astype(np.float32)
        room = np.maximum(BEYOND[0], BEYOND[1] * sides)
        if self.outside == "clip":  # some of it has to be there
            low, high, sides = boxes[:, :2], boxes[:, 2:], sides[:, :2]
            return np.flatnonzero(((low >= sides) | (high <= 0)).any(1))
        return np.flatnonzero(((boxes < -room) | (boxes > sides + room)).any(1))

    def _misfit(self, index: int, row: int, size: tuple[int, ...], count: int, box: np.ndarray) -> OddBoxes:
        x1, y1, x2, y2 = box.tolist()
        others = f" ({count - 1:,} more like it)" if count > 1 else ""
        corners = x2 - x1 <= size[1] and y2 - y1 <= size[0] and x2 - x1 > x1 and y2 - y1 > y1 >= 0
        hint = clip = ""
        if corners and self._annotations.word == "annotation":
            hint = " Are its numbers two corners? COCO's bbox is x, y, width, height."
        if self.outside == "refuse":
            clip = " Boxes that rightly reach beyond the border: dataset.outside=clip."
        annotation = f"{self._annotations.word} {self._objects['number'][row]}"
        return OddBoxes(
            f"'{self._annotations.file(index)}': {annotation}: its box, x {x1:g} to {x2:g} and y {y1:g} to "
            f"{y2:g}, lies outside of its image '{self.images[index]}', which is {shown(size)} pixels "
            f"large{others}: the image was resized after it was annotated, or the box is another image's."
            f"{hint} Bring both to one size.{clip}"
        )
