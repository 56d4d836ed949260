"""A user's own sets: which are taken, and what they say of their classes without an image being read.

Labels beside samples are a list's own, or lie in ``targets`` or ``labels`` (torchvision), in a
``TensorDataset``, or in a column of a data set of Hugging Face; ``Subset`` and ``ConcatDataset`` of such
pass them on. ``datasets`` itself is never imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
)

from ray_kd.config.errors import UserError
from ray_kd.data.base import MapSplit
from ray_kd.data.user_samples import read_sample, stack_column

COMPARED = 8
"""Samples, evenly spread, whose labels have to be those beside the samples."""
IMAGES = ("image", "img", "pixel_values")
"""What columns of images are called in data sets of Hugging Face."""
CLASSES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "label": (("label", "labels"), ("fine_label",)),
    "mask": (("mask",), ("annotation", "label", "labels", "segmentation_mask")),
}
"""What columns of classes are called there, the plainest names first."""
BOXES = ("boxes", "box_label", "crowd", "area")


@dataclass(frozen=True)
class Known:
    """What a set says of its classes beside its samples.

    Attributes:
        labels: the class of each sample, or, of masks and boxes in a list, those that occur; None: not known.
        names: what the classes are called, in their order; None: not known.
        doubt: why labels that are there are not believed.
    """

    labels: Tensor | None = None
    names: tuple[str, ...] | None = None
    doubt: str = ""


def require_set(given: Any, name: str) -> None:
    """Whether something is a map-style set with samples in it.

    Raises:
        UserError: it is not; says what it is, and what to pass in its place.
    """
    kind = _kind(given)
    if isinstance(given, DataLoader):
        require_set(given.dataset, name)
        raise UserError(f"{name}: {_of_loader(given)}")
    if _is_hugging_face(given) and isinstance(given, Mapping):
        splits = ", ".join(map(str, given)) or "none"
        first = next(iter(given), "train")
        raise UserError(
            f"{name}: expected one split, got {kind}, which holds several ({splits}); pass one by name: "
            f"dataset[{str(first)!r}]."
        )
    if _is_hugging_face(given) and not hasattr(given, "__len__"):
        raise UserError(
            f"{name}: expected a data set with len(dataset) and dataset[i], got a streamed one ({kind}), "
            "whose samples come in one order only. Load it without streaming=True, or take some of it: "
            "datasets.Dataset.from_list(list(dataset.take(1000)), features=dataset.features)."
        )
    listed = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if not listed or isinstance(given, (str, Mapping, IterableDataset)):
        raise UserError(
            f"{name}: expected a map-style dataset, with len(dataset) and dataset[i], got {kind}. Of an "
            "iterable one make a list, if it fits into memory: list(dataset)."
        )
    try:
        count = len(given)
    except TypeError:
        raise UserError(
            f"{name}: expected a dataset that has a length, got {kind}, whose len() fails."
        ) from None
    if not count:
        raise UserError(f"{name}: expected at least one sample, got none.")


def columns_of(given: Any, column: str, name: str) -> dict[str, str] | None:
    """Which columns of a data set of Hugging Face are read as what; None: the set is none of these.

    Args:
        column: where the task has its classes: label, mask or box_label.

    Raises:
        UserError: several columns, or none, could be the images or the classes.
    """
    found: dict[str, str] = {}
    for leaf in _leaves(given):
        if not _is_hugging_face(leaf):
            continue
        sample = leaf[0]
        if not isinstance(sample, Mapping):
            raise UserError(
                f"{name}: expected samples that are mappings, got {_kind(sample)}: dataset.with_format(None)."
            )
        keys = [str(key) for key in sample]
        image = _one(keys, [IMAGES, _of_feature(leaf, "Image")], "images", "image", name)
        found[image] = "image"
        if column == "box_label":
            found |= {key: key for key in BOXES if key in keys}
            continue
        first, second = CLASSES[column]
        feature = _of_feature(leaf, "ClassLabel") if column == "label" else []
        rest = [key for key in keys if key != image]
        chosen = _one(rest, [first, [*second, *feature]], "classes", column, name)
        kind = str(getattr(_features(leaf).get(chosen), "dtype", ""))
        if kind in ("string", "large_string"):
            raise UserError(
                f"{name}: label: column '{chosen}' holds text, expected the numbers of classes: "
                f"dataset.class_encode_column('{chosen}')."
            )
        found[chosen] = column
    return found or None


def known_classes(given: Any, column: str, split: MapSplit) -> Known:
    """What a set says of its classes, without more of its samples being read than a few.

    Args:
        split: reads the set; some of its samples have to say what ``labels`` says of them.
    """
    if column != "label":
        return Known(_beside(given, column, {}))
    columns = split.columns or {}
    parts = enumerate(_leaves(given), start=1)
    names = _agreed_names((f"part {i} of {split.where}", _names(leaf, columns)) for i, leaf in parts)
    labels = _beside(given, column, columns)
    if labels is None or isinstance(given, (list, tuple)):
        return Known(labels, names)
    index = torch.arange(0, len(split), max(1, -(-len(split) // COMPARED)))
    read = _flat(split.gather(index)["label"], column, split.where)
    if len(read) != len(index):  # not one class a sample, which the checks of samples say better
        return Known(None, None, "the labels beside its samples are not theirs")
    differs = (read.double() != labels[index].double()).nonzero()
    if len(differs):
        at = int(differs[0])
        doubt = (
            f"the labels beside its samples are not theirs (sample {int(index[at])} has {float(read[at]):g}, "
            f"and beside it stands {float(labels[index][at]):g})"
        )
        return Known(None, None, doubt)
    return Known(labels, names)


def class_names(known: Mapping[str, Known]) -> tuple[str, ...] | None:
    """What the classes of several sets are called.

    Raises:
        UserError: one number is called differently in two of them.
    """
    return _agreed_names((name, part.names) for name, part in known.items())


def _of_loader(loader: DataLoader) -> str:
    """What to pass in place of a DataLoader, and where its settings go."""
    settings = [f"batch_size is training.batch_size ({loader.batch_size})"] if loader.batch_size else []
    if loader.num_workers:
        settings.append(f"num_workers is resources.loaders ({loader.num_workers})")
    sampler = loader.sampler if loader.batch_size else loader.batch_sampler or loader.sampler
    drawn = isinstance(sampler, RandomSampler) and (sampler.replacement or sampler._num_samples is not None)
    if drawn or type(sampler) not in (SequentialSampler, RandomSampler):
        what = f"its sampler ({_kind(sampler)}) is not taken over"
        settings.append(f"{what}: a choice of samples is Subset(loader.dataset, indices)")
    if loader.collate_fn not in (default_collate, default_convert):
        called = getattr(loader.collate_fn, "__qualname__", _kind(loader.collate_fn))
        settings.append(f"what its collate_fn ({called}) does to a sample, dataset[i] has to do")
    said = f" Of its settings here: {'; '.join(settings)}." if settings else ""
    return (
        "expected a dataset, got a DataLoader; pass what it reads, loader.dataset: a run makes batches and "
        f"their order by itself.{said}"
    )


def _is_hugging_face(given: Any) -> bool:
    """Whether something is of the package ``datasets``, or derived from what is."""
    return any(cls.__module__.partition(".")[0] == "datasets" for cls in type(given).__mro__)


def _features(leaf: Any) -> Mapping[str, Any]:
    return getattr(leaf, "features", None) or {}


def _of_feature(leaf: Any, kind: str) -> list[str]:
    """The columns of a data set of Hugging Face that hold features of a kind."""
    return [key for key, feature in _features(leaf).items() if type(feature).__name__ == kind]


def _one(keys: Sequence[str], tiers: Sequence[Iterable[str]], what: str, column: str, name: str) -> str:
    """The one column that can be meant; the first tier of names that has any decides."""
    for tier in tiers:
        found = [key for key in keys if key in tier]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{name}: expected one column of {what}, got {', '.join(found)}: which is it? Leave the "
                f"others out: dataset.remove_columns({found[1:]!r}), or in what its transform returns."
            )
    call = (
        f" Call one so: dataset.rename_column({keys[0]!r}, '{column}'), or in its transform." if keys else ""
    )
    got = ", ".join(keys) or "no other column"
    raise UserError(f"{name}: expected a column of {what} called '{column}', got {got}.{call}")


def _leaves(given: Any) -> Iterator[Any]:
    """The sets that a set is made of."""
    if isinstance(given, Subset):
        yield from _leaves(given.dataset)
    elif isinstance(given, ConcatDataset):
        for part in given.datasets:
            yield from _leaves(part)
    else:
        yield given


def _names(leaf: Any, columns: Mapping[str, str]) -> tuple[str, ...] | None:
    """What a set calls its classes."""
    if _is_hugging_face(leaf):
        names = getattr(_features(leaf).get(_stored(leaf, columns) or ""), "names", None)
        return None if names is None else tuple(names)
    if getattr(leaf, "target_transform", None) is not None:
        return None  # it may give them other numbers
    names, numbers = getattr(leaf, "classes", None), getattr(leaf, "class_to_idx", None)
    if isinstance(numbers, Mapping) and sorted(numbers.values()) == list(range(len(numbers))):
        names = sorted(numbers, key=lambda name: int(numbers[name]))
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(n, str) for n in names):
        return None
    return tuple(names)


def _agreed_names(found: Iterable[tuple[str, tuple[str, ...] | None]]) -> tuple[str, ...] | None:
    """The longest list of names, of which all others are a beginning."""
    agreed: tuple[str, ...] = ()
    first = ""
    for where, names in found:
        for number, (one, other) in enumerate(zip(agreed, names or (), strict=False)):
            if one != other:
                raise UserError(
                    f"class {number} is called '{one}' in {first} and '{other}' in {where}; expected the "
                    "same classes in the same order. (Of folders of images, each set needs the same folders: "
                    "their order says the numbers.)"
                )
        if len(names or ()) > len(agreed):
            agreed, first = names or (), where
    return agreed or None


def _beside(given: Any, column: str, columns: Mapping[str, str]) -> Tensor | None:
    """All labels of a set, as far as they can be had without its images."""
    if isinstance(given, (list, tuple)):
        return _flat((_target(item, column, i) for i, item in enumerate(given)), column, "samples")
    if column != "label":
        return None
    if isinstance(given, Subset):
        whole = _beside(given.dataset, column, columns)
        return None if whole is None else whole[torch.as_tensor(list(given.indices), dtype=torch.long)]
    if isinstance(given, ConcatDataset):
        parts = [_beside(part, column, columns) for part in given.datasets]
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
    if _is_hugging_face(given):
        key = _stored(given, columns)
        values = None if key is None else given.select_columns([key]).with_format(None)[:][key]
    elif isinstance(given, TensorDataset):
        values = given.tensors[1] if len(given.tensors) == 2 else None
    else:
        values = next((getattr(given, name) for name in ("targets", "labels") if hasattr(given, name)), None)
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    if labels.dim() != 1 or len(labels) != len(given) or labels.is_complex():
        return None
    change = getattr(given, "target_transform", None)
    try:
        return labels if change is None else _flat(map(change, labels.tolist()), column, "samples")
    except Exception:  # what it takes is not what lies beside the samples
        return None


def _stored(leaf: Any, columns: Mapping[str, str]) -> str | None:
    """The stored column of labels of a data set of Hugging Face; a transform may call it otherwise."""
    chosen = next((key for key, column in columns.items() if column == "label"), None)
    if chosen in leaf.column_names:
        return chosen
    encoded = _of_feature(leaf, "ClassLabel")
    return encoded[0] if len(encoded) == 1 else None


def _target(item: Any, column: str, number: int) -> Any:
    """A sample's classes, its image left alone."""
    if column == "label" and isinstance(item, (tuple, list)) and len(item) == 2:
        return item[1]
    if isinstance(item, Mapping) and column in item:
        return item[column]
    has = read_sample(item, f"sample {number}")  # which says what is wrong where nothing can be read
    raise UserError(f"sample {number}: expected '{column}', got {', '.join(has)}.")


def _flat(values: Iterable[Any], column: str, where: str) -> Tensor:
    """Classes of samples one after the other; one-hot ones as their class; of masks and boxes those in
    each."""
    parts = []
    for value in values:
        tensor = stack_column([value], column, where)[0]
        one_hot = column == "label" and tensor.dim() == 1 and len(tensor) > 1
        parts.append(tensor.int().argmax()[None] if one_hot else tensor.flatten())
    if column != "label":
        parts = [part.unique() for part in parts]
    kinds = {part.dtype for part in parts if part.numel()}
    return torch.cat([part.double() if len(kinds) > 1 else part for part in parts])


def _kind(value: Any) -> str:
    return type(value).__name__
