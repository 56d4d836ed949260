"""What the datasets of masks and boxes in files have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ray_kd.data.files import FileOptions, Files
from ray_kd.data.masks import class_numbers
from ray_kd.data.pictures import OddBoxes, read_mask, read_picture, shown, turned

Span = tuple[float, float] | None

BEYOND = (2.0, 0.01)
"""How far a box may reach beyond its picture, as rounding does in real sets: pixels, or a share of the side
where that is more."""


class BoxOptions(FileOptions):
    """What datasets of boxes in files can be told."""

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


@dataclass(frozen=True)
class Told:
    """Where boxes come from, and what is said there of their pictures.

    Attributes:
        where: the file of annotations, or one for each picture.
        numbers: of each picture's objects (n,): what their annotations call them.
        word: what such a number is of: "annotation", "object".
        sizes: height and width of each picture when it was annotated (N, 2); 0: not said.
    """

    where: str | Files
    numbers: list[np.ndarray]
    word: str
    sizes: np.ndarray

    def file(self, index: int) -> str:
        """Where the objects of a picture stand."""
        return self.where if isinstance(self.where, str) else self.where[index]


class BoxedImages:
    """Images with any number of boxes each.

    Args:
        boxes: (x1, y1, x2, y2) of each image (n, 4).
        labels: their classes (n,).
        crowd: which stand for what an evaluation neither asks for nor blames (n,).
        area: the objects' areas in pixels (n,).
        told: where the boxes come from.
        span: black and white of images of more than 8 bits (``FileOptions.range``).
        outside: what becomes of a box that reaches beyond its picture by more than ``BEYOND``.

    Raises:
        UserError: boxes that do not fit into the picture that was annotated; names the first.
    """

    def __init__(
        self,
        images: Files,
        boxes: list[np.ndarray],
        labels: list[np.ndarray],
        crowd: list[np.ndarray],
        area: list[np.ndarray],
        told: Told,
        span: Span = None,
        outside: Literal["refuse", "clip"] = "refuse",
    ) -> None:
        self.images, self.span, self.outside = images, span, outside
        self.most = max((len(rows) for rows in boxes), default=0)
        """Boxes in the fullest image."""
        # One block each: millions of small arrays would take seconds to hand to a worker process.
        self._ends = np.cumsum([len(rows) for rows in boxes])
        self._boxes = np.concatenate([*boxes, np.zeros((0, 4))]).astype(np.float32).reshape(-1, 4)
        self._labels = np.concatenate([*labels, np.zeros(0)]).astype(np.int64)
        self._crowd = np.concatenate([*crowd, np.zeros(0)]).astype(bool)
        self._area = np.concatenate([*area, np.zeros(0)]).astype(np.float32)
        self._numbers = np.concatenate([*told.numbers, np.zeros(0, np.int64)]).astype(np.int64)
        self._told = Told(told.where, [], told.word, told.sizes)
        sizes = np.repeat(told.sizes, [len(rows) for rows in boxes], axis=0)
        known = sizes.min(1, initial=1) > 0
        bad = np.flatnonzero(known)[self._misfits(self._boxes[known], sizes[known])]
        if len(bad):
            picture = int(np.searchsorted(self._ends, bad[0], side="right"))
            raise self._misfit(picture, int(bad[0]), tuple(told.sizes[picture].tolist()), len(bad))

    def __len__(self) -> int:
        return len(self.images)

    def paths(self, index: int) -> tuple[str, ...]:
        return (self.images[index],)

    def raw(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        picture = read_picture(self.images[index], self.span)
        rows = slice(self._ends[index - 1] if index else 0, self._ends[index])
        boxes = self._fitting(index, rows, picture.size, picture.stored, picture.orientation)
        return {
            "image": picture.values,
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes), format="XYXY", canvas_size=picture.size
            ),
            "box_label": torch.from_numpy(self._labels[rows].copy()),
            "crowd": torch.from_numpy(self._crowd[rows].copy()),
            "area": torch.from_numpy(self._area[rows].copy()),
        }

    def _fitting(
        self, index: int, rows: slice, size: tuple[int, int], stored: tuple[int, int], orientation: int
    ) -> np.ndarray:
        """The boxes of a picture as it stands upright, which is how annotation tools show it; where the size
        that was annotated is that of the file's own rows, they are turned with it."""
        boxes, said = self._boxes[rows].copy(), tuple(self._told.sizes[index].tolist())
        if min(said) > 0 and said != size:
            if said != stored:
                raise OddBoxes(
                    f"'{self.images[index]}' is {shown(size)} pixels large, and '{self._told.file(index)}' "
                    f"says {shown(said)}: the picture was resized or turned after it was annotated, and its "
                    "boxes are of another picture. Take the picture that was annotated, or bring both to "
                    "one size."
                )
            boxes = turned(boxes, orientation, stored)
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

    def _misfit(
        self, index: int, row: int, size: tuple[int, ...], count: int, box: np.ndarray | None = None
    ) -> OddBoxes:
        x1, y1, x2, y2 = (self._boxes[row] if box is None else box).tolist()
        others = f" ({count - 1:,} more like it)" if count > 1 else ""
        corners = x2 - x1 <= size[1] and y2 - y1 <= size[0] and x2 - x1 > x1 and y2 - y1 > y1 >= 0
        hint = clip = ""
        if corners and self._told.word == "annotation":
            hint = " Are its numbers two corners? COCO's bbox is x, y, width, height."
        if self.outside == "refuse":
            clip = " Boxes that rightly reach beyond the border: dataset.outside=clip."
        return OddBoxes(
            f"'{self._told.file(index)}': {self._told.word} {self._numbers[row]}: its box, x {x1:g} to "
            f"{x2:g} and y {y1:g} to {y2:g}, lies outside of its picture '{self.images[index]}', which is "
            f"{shown(size)} pixels large{others}: the picture was resized after it was annotated, or the "
            f"box is another picture's.{hint} Bring both to one size.{clip}"
        )
