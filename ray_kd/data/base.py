"""What a dataset is: three splits, each of which gives the raw samples of any indices."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Protocol, TypeGuard

import torch
from pydantic import Field
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import Options
from ray_kd.data.user_samples import read_sample, stack_column


class LabelOptions(Options):
    """Options of datasets whose training labels can be limited."""

    labels: Annotated[int, Field(ge=1)] | None = None
    """Labelled training images the student may use; None: all of them."""
    seed: int = 0
    """Key of the splits and of the choice of labels; a sweep redraws it where its ``vary`` lists split."""
    label_seed: int | None = None
    """Key of the choice of labels alone; null: ``seed``. A sweep sets it where its ``vary`` lists labels."""

    def teacher_options(self) -> dict[str, Any]:
        """What a teacher's dataset differs in: it sees every label of the training split."""
        return {"labels": None, "label_seed": None}

    def overlap(self) -> float | None:
        """Samples that ``seed`` holds out, for each that is left to train on; None: it chooses no split.

        Of the shares ``validation`` and ``test`` the larger one counts, since a root may bring either.
        """
        given = [getattr(self, name, None) for name in ("validation", "test")]
        shares = [share for share in given if isinstance(share, float)]  # a name is a folder that is there
        return max(shares) / (1 - sum(shares)) if any(shares) else None

    def essence(self) -> dict[str, Any]:
        found = super().essence()
        if self.labels is None:
            found.pop("label_seed", None)  # nothing is chosen
        return found


class Split(Protocol):
    """One of train, validation, test.

    Attributes:
        ids: a number for each sample (N,), int64, unique over all splits of the dataset.
    """

    ids: Tensor

    def __len__(self) -> int: ...

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        """The samples at ``index`` (B,), without views, rows are samples.

        image (B, C, H, W) float and sample (B,) ids; label (B,) for classification; mask (B, H, W) of
        classes for segmentation, IGNORE where there is no label; for detection boxes (B, M, 4) in pixels
        with box_label (B, M), -1 where an image has fewer than M objects.
        """
        ...


class RawSplit(Split, Protocol):
    """A split of files, read one by one; ``SampleViews`` act on a sample before it has the dataset's size.

    A row is ``finish(fit(raw(i)))``; under a view ``finish(views.sample(raw(i), split, i, view))``, since a
    view brings the sample to a size of its own. ``gather`` gives ``ready`` rows. Where a split
    has ``paths(index)``, the files of a sample, its image first, ``ray-kd doctor --scan`` names them.

    Attributes:
        size: height and width that ``fit`` gives, and a view that has no size of its own.
    """

    size: tuple[int, int]

    def raw(self, index: int) -> dict[str, Any]:
        """Sample number ``index`` as it lies on disk: image, a ``tv_tensors.Image`` (C, H, W), upright, uint8
        or, where the file has more bits, float in [0, 1]; label, an int;
        mask, a ``tv_tensors.Mask`` (H, W); boxes, ``tv_tensors.BoundingBoxes`` (n, 4), with box_label (n,),
        each where the dataset has it."""
        ...

    def fit(self, sample: dict[str, Any]) -> dict[str, Any]:
        """A raw sample brought to the dataset's size, as evaluation sees it."""
        ...

    def finish(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        """A fitted or viewed sample, its image uint8 or float in [0, 1], as a row of tensors, boxes padded,
        in the form in which it travels between processes and to the device: not normalised, the mask uint8.

        The label is an int, or shares of classes (K,) where the view mixes samples.
        """
        ...

    def ready(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Finished rows, stacked and on any device, as ``gather`` gives them: images normalised."""
        ...


def is_raw(split: Split) -> TypeGuard[RawSplit]:
    """Whether a split is read sample by sample from files."""
    return hasattr(split, "raw") and hasattr(split, "finish")


class TensorSplit:
    """A split that lies in memory.

    Args:
        images: (N, C, H, W) float, normalised.
        labels: (N,) int64, where samples have one class.
        ids: (N,) int64; default 0 .. N-1.
        **columns: what else a sample has (mask, boxes, box_label), (N, ...).
    """

    def __init__(
        self, images: Tensor, labels: Tensor | None = None, ids: Tensor | None = None, **columns: Tensor
    ) -> None:
        self.ids = torch.arange(len(images)) if ids is None else ids
        given = {} if labels is None else {"label": labels}
        self.columns = {"image": images.contiguous(), **given, **columns}

    def __len__(self) -> int:
        return len(self.ids)

    def classes_in(self, index: int) -> list[int]:
        """The classes of a sample that has one, or boxes."""
        named = [
            self.columns[name][index].flatten() for name in ("label", "box_label") if name in self.columns
        ]
        return sorted({int(label) for labels in named for label in labels if label >= 0})

    @property
    def images(self) -> Tensor:
        """All images (N, C, H, W)."""
        return self.columns["image"]

    @property
    def labels(self) -> Tensor:
        """All labels (N,)."""
        return self.columns["label"]

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        found = {name: values[index] for name, values in self.columns.items()}
        return {**found, "sample": self.ids[index]}

    def to(self, device: torch.device) -> TensorSplit:
        """The same split on a device; sets this small stay resident there."""
        moved = {name: values.to(device) for name, values in self.columns.items()}
        return _tensor_split(moved, self.ids.to(device))

    def exchange(self, order: Tensor) -> TensorSplit:
        """The same images with what is known of them taken from the samples in ``order`` (N,)."""
        other = {name: values[order.to(values.device)] for name, values in self.columns.items()}
        return _tensor_split({**other, "image": self.images}, self.ids)


def _tensor_split(columns: dict[str, Tensor], ids: Tensor) -> TensorSplit:
    rest = dict(columns)
    return TensorSplit(rest.pop("image"), rest.pop("label", None), ids, **rest)


class MapSplit:
    """A split over a user's map-style dataset.

    Args:
        dataset: ``dataset[i]`` gives an image and a label, or a mapping (image, and label, mask, or boxes
            and box_label) of the same shapes for every i; ``data.user_samples`` says what is read how.
        where: begins messages.
        first: id of the first sample; the splits of a registered dataset share no id.
        columns: what the parts of a sample that are read are called, where they have other names:
            {"img": "image", "fine_label": "label"}; None: all parts, by their own names.
    """

    def __init__(
        self, dataset: Any, where: str = "dataset", first: int = 0, columns: dict[str, str] | None = None
    ) -> None:
        self.dataset, self.where, self.columns = dataset, where, columns
        self.ids = torch.arange(first, first + len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        where = self.where
        items = [read_sample(self.dataset[i], f"{where}, sample {i}", self.columns) for i in index.tolist()]
        columns = {}
        for name in items[0]:
            if any(name not in item for item in items):
                raise UserError(f"{where}: some samples of one batch have '{name}' and others have not.")
            columns[name] = stack_column([item[name] for item in items], name, where)
        return {**columns, "sample": self.ids[index]}


class Dataset:
    """The base of registered datasets.

    Attributes:
        train, validation, test: the splits. Search, early stopping and the best epoch read validation;
            test is read once, at the end of a run.
        classes: how many classes there are.
        channels: channels of an image.
        class_names: what the classes are called, in their order; None: not known.
        notes: what a user of the data should know; kept in ``dataset.json``, and said at the end of a sweep.
        mean, std: what images in [0, 1] were normalised with, channel by channel; None: not known.

    Example:
        >>> import torch
        >>> from ray_kd.plugin import Dataset, Options, TensorSplit, create_dataset, register_dataset
        >>> class ExampleOptions(Options):
        ...     size: int = 8
        >>> @register_dataset("example_data")
        ... class Example(Dataset):
        ...     Options = ExampleOptions
        ...     def __init__(self, options):
        ...         images = torch.zeros(6, 1, options.size, options.size)
        ...         for split, ids in (("train", [0, 1]), ("validation", [2, 3]), ("test", [4, 5])):
        ...             labels = torch.tensor([0, 1])
        ...             setattr(self, split, TensorSplit(images[ids], labels, torch.tensor(ids)))
        ...         self.classes, self.channels = 2, 1
        >>> len(create_dataset(ExampleOptions(size=4)).train)
        2
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    """Names of the tasks that its samples have labels for."""
    Options: ClassVar[type[Options]]
    train: Split
    validation: Split
    test: Split
    classes: int
    channels: int
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def image_shape(cls, options: Any) -> tuple[int, int, int] | None:
        """Channels, height and width of the images, where the options alone say it."""
        size = getattr(options, "size", None)
        if size is None:
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return int(getattr(options, "channels", 3)), int(height), int(width)

    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, as its first training sample has them."""
        height, width = self.train.gather(torch.tensor([0]))["image"].shape[2:]
        return int(height), int(width)

    def classes_of(self, task: str) -> int:
        """How many classes a network for a task tells apart, the background of a segmentation included."""
        return self.classes

    def class_names_of(self, task: str) -> tuple[str, ...] | None:
        """What the classes of ``classes_of`` are called, in their order; None: not known."""
        return self.class_names
