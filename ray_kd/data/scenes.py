"""Scenes: handwritten digits on cluttered backgrounds, with class masks and boxes; no download."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.scene_drawing import Painter, ScenesOptions
from ray_kd.data.splits import stratified_order
from ray_kd.random_streams import generator

CHUNK = 256
"""Scenes drawn at once: bounds the memory of drawing."""
MEAN, STD = 0.5, 0.25


@DATASETS.register("scenes", source="composed of the digits of Alpaydin & Kaynak, UCI 1998")
class Scenes(Dataset):
    """Handwritten digits composed on gradients, noise, strokes and halves of digits.

    Size, place, angle, colour and overlap of the digits are random; the digit images of the three splits
    are disjoint (50, 20 and 30 % of scikit-learn's 1,797). A scene is a pure function of (seed, split,
    its number, the options that say what scenes look like): more scenes leave the first ones as they are.

    mask: 0 is the background, 1 + d the visible ink of digit d; the soft rim of the ink is IGNORE, and so
    is what is left of a digit of which less than 35 % (or fewer than 12 pixels) is seen. boxes: tight
    around the visible ink. Images are scaled from [0, 1] by mean 0.5 and standard deviation 0.25.

    Raises:
        UserError: more labels asked for than there are training scenes, or a range that is upside down.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "detection")
    Options = ScenesOptions

    def __init__(self, options: ScenesOptions) -> None:
        for name in ("objects", "scale"):
            low, high = getattr(options, name)
            if low > high:
                raise UserError(f"dataset scenes: {name}: expected [fewest, most], got [{low}, {high}].")
        labels = options.train if options.labels is None else options.labels
        if labels > options.train:
            raise UserError(
                f"dataset scenes: labels: expected 1 to {options.train} (the training scenes), got {labels}."
            )
        first = 0
        pools = _digits(options.seed)
        for split in ("train", "validation", "test"):
            there = getattr(options, split)
            used = torch.arange(there)
            if split == "train" and options.label_seed is not None:
                used = torch.randperm(there, generator=generator(options.label_seed, "scenes labels"))
            index = used[:labels].sort().values if split == "train" else used
            setattr(self, split, _split(options, split, pools[split], index, first))
            first += there
        self.classes, self.channels, self.class_names = 10, options.channels, tuple("0123456789")
        self.mean, self.std = (MEAN,) * options.channels, (STD,) * options.channels

    def classes_of(self, task: str) -> int:
        """Ten digits, and the background where pixels are classified."""
        return 11 if task == "segmentation" else 10

    def class_names_of(self, task: str) -> tuple[str, ...]:
        return ("background", *"0123456789") if task == "segmentation" else tuple("0123456789")


def _digits(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Digit images (D, 8, 8) in [0, 1] and classes (D,) that each split may use."""
    from sklearn.datasets import load_digits  # one second of import, only where it is used

    raw = load_digits()
    order = torch.from_numpy(stratified_order(raw.target, seed, "digits splits"))
    images, labels = torch.from_numpy(raw.images).float().div(16), torch.from_numpy(raw.target).long()
    test, validation, train = order.split([539, 359, 899])
    chosen = {"train": train, "validation": validation, "test": test}
    return {split: (images[index], labels[index]) for split, index in chosen.items()}


def _split(
    options: ScenesOptions, split: str, pool: tuple[Tensor, Tensor], numbers: Tensor, first: int
) -> TensorSplit:
    parts = [Painter(options, *pool, split, index).scenes() for index in numbers.split(CHUNK)]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    columns["image"] = columns["image"].sub_(MEAN).div_(STD)
    return TensorSplit(columns.pop("image"), ids=first + numbers, **columns)
