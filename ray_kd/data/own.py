"""A dataset that is none of the spec's, but three sets that ``distill`` is handed."""

from __future__ import annotations

from typing import ClassVar

from ray_kd.config.errors import UserError
from ray_kd.config.options import OwnOptions
from ray_kd.config.registry import DATASETS
from ray_kd.data.base import Dataset


class OwnDatasetOptions(OwnOptions):
    """What a record says of it; nobody has to write any of it."""

    objects: dict[str, str] = {}
    """The class of each set, by split."""
    samples: dict[str, int] = {}
    """How many samples each set has, by split."""
    classes: int | None = None
    image: tuple[int, int, int] | None = None
    """Channels, height and width of an image."""

    def described(self) -> str:
        kinds = " and ".join(dict.fromkeys(self.objects.values()))
        return kinds and f"{kinds}, {' + '.join(map(str, self.samples.values()))} samples"


@DATASETS.register("own", source="your own code")
class OwnDataset(Dataset):
    """Sets of your own, which distill(train=..., validation=..., test=...) is handed in Python.

    What a file leaves out is this; no command can read it. ``objects.json`` of the run describes it.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "detection")
    Options = OwnDatasetOptions

    def __init__(self, options: OwnDatasetOptions) -> None:
        what = f" ({options.described()})" if options.objects else ""
        raise UserError(
            f"dataset 'own'{what}: sets of your own, which no file can build; in Python "
            "distill(spec, train=..., validation=..., test=...) is handed them."
        )
