"""A folder of images, one folder for each class: ImageNet, Tiny-ImageNet, or a user's own."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS
from ray_kd.data.files import FileDataset, FileOptions, Files, Size
from ray_kd.data.image_files import read_image
from ray_kd.data.layout import say_once, wrong
from ray_kd.data.listing import files_below, folders, is_image, lines
from ray_kd.data.splits import stratified_order

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"}
"""Folders of these names alone are splits, whatever the layout."""


class ImageFolderOptions(FileOptions):
    """Options of a folder of images."""

    called: str | None = None
    """What a run's identity calls the data; default: the root's own name. Another set needs another name."""
    size: Size = (224, 224)
    """Height and width (one number: a square) that the network sees."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the training images kept for validation, where there is no test folder besides val. 0:
    validation reads the test images, as published tables do; report the last epoch then."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share kept for the test, of a root without train and val folders."""

    def essence(self) -> dict[str, Any]:
        return {**super().essence(), "called": self.called or os.path.basename(self.root)}


class LabelledImages:
    """Image files, each of one class."""

    def __init__(self, files: Files, labels: np.ndarray, span: tuple[float, float] | None = None) -> None:
        self.files, self.labels, self.span = files, labels, span

    def __len__(self) -> int:
        return len(self.files)

    def paths(self, index: int) -> tuple[str, ...]:
        return (self.files[index],)

    def classes_in(self, index: int) -> list[int]:
        return [int(self.labels[index])]

    def raw(self, index: int) -> dict[str, Any]:
        return {"image": read_image(self.files[index], self.span), "label": int(self.labels[index])}

    def part(self, chosen: np.ndarray) -> LabelledImages:
        """Some of them."""
        names = self.files.names()
        files = Files.below(self.files.root, (names[i] for i in chosen))
        return LabelledImages(files, self.labels[chosen], self.span)


@DATASETS.register("image_folder", version=2, source="ImageNet's layout (Russakovsky et al., IJCV 2015)")
class ImageFolder(FileDataset):
    """Images in one folder for each class, below ``train`` and ``val``; classes in the order of their names.

    With train and val, val is the test and a stratified share of train validates; with a labelled ``test``
    besides, val validates; with neither, all three are stratified shares of what there is. Tiny-ImageNet's
    val is read as it is, by its ``val_annotations.txt``. Images are evaluated as ImageNet's are: the short
    side scaled to 8/7 of ``size``, then the centre; those that have the size already are left alone. Names
    that begin with a dot, and what systems leave behind (Thumbs.db, __MACOSX), are no class and no image.
    A run's identity holds the name of the folder (or ``called``), not its path or its content.

    Raises:
        UserError: missing folders, a class without images, or classes that differ between the folders.
    """

    Options = ImageFolderOptions
    tree: ClassVar[str] = """
train/<class>/*.jpg      (ImageNet: train/n01440764/*.JPEG; folders within a class are searched too)
val/<class>/*.jpg        (or Tiny-ImageNet's val/images/ with val/val_annotations.txt)
test/<class>/*.jpg       (optional)
or, without train and val, <class>/*.jpg
"""

    def __init__(self, options: ImageFolderOptions) -> None:
        root = Path(options.root)
        if not root.is_dir():
            wrong(self.name, options.root, "does not exist", self.tree)
        parted = (root / "train").is_dir()
        if (root / "val").is_dir() and not parted:
            wrong(self.name, options.root, "has a folder val, but none called train", self.tree)
        train, names = self._folder(root / "train" if parted else root, options.range)
        validation = None
        if parted:
            test = self._other(root / "val", names, options.range)
            if self._is_labelled(root / "test", names):
                validation, test = test, self._other(root / "test", names, options.range)
        else:
            order = stratified_order(train.labels, options.seed, f"{self.name} test")
            count = round(len(order) * options.test)
            test, train = train.part(np.sort(order[:count])), train.part(np.sort(order[count:]))
        self.classes, self.class_names = len(names), tuple(names)
        self.fill(train, test, options, "crop", train.labels, validation)

    def _folder(self, folder: Path, span: tuple[float, float] | None) -> tuple[LabelledImages, list[str]]:
        """The images of a folder of folders, and the names of these, in torchvision's order."""
        names, paths, labels = folders(folder), list[str](), list[int]()
        where = "" if folder.name not in ("train", "val", "test") else f" in its folder {folder.name}"
        root = str(folder.parent if where else folder)
        if not names:
            wrong(self.name, root, f"cannot be used{where}: it holds no folder for each class", self.tree)
        if not where and {name.lower() for name in names} <= SPLITS:
            what = f"holds {', '.join(names)}, which are names of splits and not of classes"
            wrong(self.name, root, f"{what}; rename them to train, val (and test)", self.tree)
        others = Counter[str]()
        for label, name in enumerate(names):
            every = list(files_below(folder / name))
            found = [path for path in every if is_image(path)]
            others.update(_ending(path) for path in every if not is_image(path))
            if not found:
                has = (
                    f"only files that are no images by their names ({_counted(Counter(map(_ending, every)))})"
                )
                what = f"the class '{name}' has {has if every else 'no file'}"
                wrong(self.name, root, f"cannot be used{where}: {what}", self.tree)
            paths += found
            labels += [label] * len(found)
        if others:
            what = f"{others.total():,} files that are no images by their names ({_counted(others)})"
            say_once(self.name, f"left out: {what} in '{folder}'")
        return LabelledImages(Files(str(folder), paths), np.array(labels), span), names

    def _is_labelled(self, folder: Path, names: list[str]) -> bool:
        """Whether a test folder has folders for the classes; ImageNet's and Tiny-ImageNet's have none."""
        own = folders(folder) if folder.is_dir() else []
        if len(own) > 1 and not set(own) & set(names):
            raise UserError(
                f"dataset {self.name}: '{folder}' has folders ({', '.join(own[:3])}), and none of them is a "
                f"class of train ({', '.join(names[:3])}); expected the same names, or a folder without "
                "labels."
            )
        return bool(set(own) & set(names))

    def _other(self, folder: Path, names: list[str], span: tuple[float, float] | None) -> LabelledImages:
        """The images of another folder with the same classes."""
        if not folder.is_dir():
            wrong(self.name, str(folder.parent), f"lacks {folder.name}", self.tree)
        if (folder / "val_annotations.txt").is_file():
            return self._annotated(folder, names, span)
        found, own = self._folder(folder, span)
        if own != names:
            odd = sorted(set(own) ^ set(names))
            where = "; ".join(
                f"only in {part}: {', '.join(sorted(only)[:5])}"
                for part, only in (("train", set(names) - set(own)), (folder.name, set(own) - set(names)))
                if only
            )
            raise UserError(
                f"dataset {self.name}: '{folder}' and '{folder.parent / 'train'}' have different classes: "
                f"{', '.join(odd[:5])} {'is' if len(odd) == 1 else 'are'} in one of them only ({where}). "
                "Rename or remove what is no class; a class has images in every folder."
            )
        return found

    def _annotated(self, folder: Path, names: list[str], span: tuple[float, float] | None) -> LabelledImages:
        """Tiny-ImageNet's val: all images in one folder, and a file of which class each is."""
        file, number = folder / "val_annotations.txt", {name: index for index, name in enumerate(names)}
        rows = [line.split("\t")[:2] for line in lines(file)]
        bad = next((row for row in rows if len(row) < 2 or row[1] not in number), None)
        if bad is not None or not rows:
            shown = "no line" if bad is None else f"the line {' '.join(bad)!r}"
            raise UserError(
                f"dataset {self.name}: '{file}': expected an image and a class of train, got {shown}."
            )
        files = Files.below(str(folder), (f"images/{image}" for image, _ in rows))
        return LabelledImages(files, np.array([number[name] for _, name in rows]), span)


def _ending(path: str) -> str:
    """How a file's name ends, or the whole of a name without a dot."""
    return os.path.splitext(path)[1].lower() or os.path.basename(path)


def _counted(endings: Counter[str]) -> str:
    return ", ".join(f"{ending} {count}" for ending, count in endings.most_common(3))
