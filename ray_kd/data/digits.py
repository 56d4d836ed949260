"""Handwritten digits: 1,797 real 8x8 images that ship inside scikit-learn."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS
from ray_kd.data.base import Dataset, LabelOptions, TensorSplit
from ray_kd.data.splits import keep_labels, stratified_order


class DigitsOptions(LabelOptions):
    """Options of the digits."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the images kept for validation."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the images kept for the one reading at the end."""


@DATASETS.register("digits", source="Alpaydin & Kaynak, UCI 1998; shipped in scikit-learn")
class Digits(Dataset):
    """Optical recognition of handwritten digits, 8x8, 10 classes; splits and label budget stratified.

    Images are scaled from [0, 16] to [-1, 1].

    Raises:
        UserError: more labels asked for than the training split has, or splits that leave none.
    """

    Options = DigitsOptions

    @classmethod
    def image_shape(cls, options: Any) -> tuple[int, int, int] | None:
        return 1, 8, 8

    def __init__(self, options: DigitsOptions) -> None:
        from sklearn.datasets import load_digits  # one second of import, only where it is used

        raw = load_digits()
        images = torch.from_numpy(raw.images).float().div(8).sub(1).unsqueeze(1)
        labels = torch.from_numpy(raw.target).long()
        if options.validation + options.test >= 1:
            raise UserError(
                f"dataset digits: validation {options.validation} and test {options.test} leave nothing to "
                "train on; expected their sum below 1."
            )
        order = stratified_order(raw.target, options.seed, "digits splits")
        total = len(order)
        test, validation = round(total * options.test), round(total * options.validation)
        parts = {
            "test": order[:test],
            "validation": order[test : test + validation],
            "train": order[test + validation :],
        }
        budget, key = options.labels, options.label_seed
        parts["train"] = keep_labels(parts["train"], raw.target, budget, key, self.name)
        for split, index in parts.items():
            chosen = torch.from_numpy(np.sort(index))
            setattr(self, split, TensorSplit(images[chosen], labels[chosen], chosen))
        self.classes, self.channels, self.class_names = 10, 1, tuple("0123456789")
        self.mean, self.std = (0.5,), (0.5,)
