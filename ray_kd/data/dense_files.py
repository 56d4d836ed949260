"""What the datasets of masks and boxes in files have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.data.files import Files, read_image, read_mask


class MaskedImages:
    """Images with a mask of classes each.

    Args:
        table: the class (or IGNORE) of each number in the files (256,), uint8.
    """

    def __init__(self, images: Files, masks: Files, table: Tensor) -> None:
        self.images, self.masks, self.table = images, masks, table

    def __len__(self) -> int:
        return len(self.images)

    def raw(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        image = read_image(self.images[index])
        mask = self.table[read_mask(self.masks[index]).long()]
        if mask.shape != image.shape[-2:]:
            raise UserError(
                f"'{self.masks[index]}' is {tuple(mask.shape)} pixels large, "
                f"its image {tuple(image.shape[-2:])}."
            )
        return {"image": image, "mask": tv_tensors.Mask(mask)}


class BoxedImages:
    """Images with any number of boxes each.

    Args:
        boxes: (x1, y1, x2, y2) of each image (n, 4).
        labels: their classes (n,).
        crowd: which stand for what an evaluation neither asks for nor blames (n,).
        area: the objects' areas in pixels (n,).
    """

    def __init__(
        self,
        images: Files,
        boxes: list[np.ndarray],
        labels: list[np.ndarray],
        crowd: list[np.ndarray],
        area: list[np.ndarray],
    ) -> None:
        self.images = images
        self.most = max((len(rows) for rows in boxes), default=0)
        """Boxes in the fullest image."""
        # One block each: millions of small arrays would take seconds to hand to a worker process.
        self._ends = np.cumsum([len(rows) for rows in boxes])
        self._boxes = np.concatenate([*boxes, np.zeros((0, 4))]).astype(np.float32).reshape(-1, 4)
        self._labels = np.concatenate([*labels, np.zeros(0)]).astype(np.int64)
        self._crowd = np.concatenate([*crowd, np.zeros(0)]).astype(bool)
        self._area = np.concatenate([*area, np.zeros(0)]).astype(np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def raw(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        image = read_image(self.images[index])
        rows = slice(self._ends[index - 1] if index else 0, self._ends[index])
        size = (image.shape[-2], image.shape[-1])
        boxes = torch.from_numpy(self._boxes[rows].copy())
        return {
            "image": image,
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "box_label": torch.from_numpy(self._labels[rows].copy()),
            "crowd": torch.from_numpy(self._crowd[rows].copy()),
            "area": torch.from_numpy(self._area[rows].copy()),
        }
