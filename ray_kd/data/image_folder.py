"""A folder of images, one folder for each class: ImageNet, Tiny-ImageNet, or anyone's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ray_kd.config.errors import UserError
from ray_kd.config.registry import DATASETS
from ray_kd.data.files import FileDataset, FileOptions, Files, Form, Size, read_image
from ray_kd.data.layout import wrong
from ray_kd.data.shares import stratified_order


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

    def __init__(self, files: Files, labels: np.ndarray) -> None:
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def raw(self, index: int) -> dict[str, Any]:
        return {"image": read_image(self.files[index]), "label": int(self.labels[index])}

    def part(self, chosen: np.ndarray) -> LabelledImages:
        """Some of them."""
        names = self.files.names()
        files = Files(self.files.root, (os.path.join(self.files.root, names[i]) for i in chosen))
        return LabelledImages(files, self.labels[chosen])


@DATASETS.register("image_folder", source="ImageNet's layout (Russakovsky et al., IJCV 2015)")
class ImageFolder(FileDataset):
    """Images in one folder for each class, below ``train`` and ``val``; classes in the order of their names.

    With train and val, val is the test and a stratified share of train validates; with a labelled ``test``
    besides, val validates; with neither, all three are stratified shares of what there is. Tiny-ImageNet's
    val is read as it is, by its ``val_annotations.txt``. Images are evaluated as ImageNet's are: the short
    side scaled to 8/7 of ``size``, then the centre; those that have the size already are left alone.
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
        train, names = self._folder(root / "train" if parted else root)
        validation = None
        if parted:
            test = self._other(root / "val", names)
            if any((root / "test" / name).is_dir() for name in names):
                validation, test = test, self._other(root / "test", names)
        else:
            order = stratified_order(train.labels, options.seed, f"{self.name} test")
            count = round(len(order) * options.test)
            test, train = train.part(np.sort(order[:count])), train.part(np.sort(order[count:]))
        self.classes = len(names)
        form = Form(options.size, options.mean, options.std, "crop")
        self.fill(train, test, form, options, train.labels, validation)

    def _folder(self, folder: Path) -> tuple[LabelledImages, list[str]]:
        """The images of a folder of folders, and the names of these, as torchvision finds them."""
        from torchvision import datasets

        try:
            found = datasets.ImageFolder(str(folder))
        except FileNotFoundError as error:
            where = "" if folder.name not in ("train", "val", "test") else f" in its folder {folder.name}"
            reason = str(error).splitlines()[0].rstrip(".")
            wrong(
                self.name,
                str(folder.parent if where else folder),
                f"cannot be used{where}: {reason}",
                self.tree,
            )
        files = Files(str(folder), (path for path, _ in found.samples))
        return LabelledImages(files, np.array(found.targets)), found.classes

    def _other(self, folder: Path, names: list[str]) -> LabelledImages:
        """The images of another folder with the same classes.

        Raises:
            UserError: its classes are not those of train.
        """
        if not folder.is_dir():
            wrong(self.name, str(folder.parent), f"lacks {folder.name}", self.tree)
        if (folder / "val_annotations.txt").is_file():
            return self._annotated(folder, names)
        found, own = self._folder(folder)
        if own != names:
            odd = sorted(set(own) ^ set(names))
            raise UserError(
                f"dataset {self.name}: '{folder}' and '{folder.parent / 'train'}' have different classes: "
                f"{', '.join(odd[:5])} {'is' if len(odd) == 1 else 'are'} in one of them only."
            )
        return found

    def _annotated(self, folder: Path, names: list[str]) -> LabelledImages:
        """Tiny-ImageNet's val: all images in one folder, and a file of which class each is."""
        file, number = folder / "val_annotations.txt", {name: index for index, name in enumerate(names)}
        rows = [line.split("\t")[:2] for line in file.read_text().splitlines() if line.strip()]
        bad = next((row for row in rows if len(row) < 2 or row[1] not in number), None)
        if bad is not None or not rows:
            shown = "no line" if bad is None else f"the line {' '.join(bad)!r}"
            raise UserError(
                f"dataset {self.name}: '{file}': expected an image and a class of train, got {shown}."
            )
        files = Files(str(folder), (str(folder / "images" / image) for image, _ in rows))
        return LabelledImages(files, np.array([number[name] for _, name in rows]))
