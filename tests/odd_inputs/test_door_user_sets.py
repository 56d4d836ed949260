"""Sets as people have them: torchvision's, parts of them, Hugging Face's, loaders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    WeightedRandomSampler,
    random_split,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.training.own_objects import own_dataset
from tests.odd_inputs.doors import spec

NAMES = ("ant", "bee", "cow")


def picture(label: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray((random.random((8, 8, 3)) * 50 + label * 60).astype(np.uint8))


def look(run: RunSpec, train: Any, validation: Any = None, **given: Any) -> Any:
    """The three sets as a run would read them."""
    other = train if validation is None else validation
    sets = {"train": train, "validation": other, "test": other}
    return own_dataset(run, sets, given.get("classes"), given.get("student"))


@pytest.fixture
def run(tmp_path: Path) -> RunSpec:
    return spec(tmp_path)


def folder(root: Path, names: tuple[str, ...] = NAMES, **how: Any) -> ImageFolder:
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(6):
            picture(label, number).save(root / name / f"{number}.png")
    return ImageFolder(root, **how)


class Counted(Dataset):
    """A set that does not say its labels, and counts which samples are read."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.read = inner, set[int]()

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        self.read.add(index)
        return self.inner[index]


class CountedFolder(ImageFolder):
    read = 0

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return super().__getitem__(index)


def test_a_folder_says_its_classes_and_their_names_without_its_images(tmp_path: Path, run: RunSpec) -> None:
    for label, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        for number in range(40):
            picture(label, number).save(tmp_path / name / f"{number}.png")
    photos = CountedFolder(tmp_path)
    found = look(run, photos)
    assert (found.classes, found.class_names, found.channels) == (3, NAMES, 3)
    assert photos.read < 3 * len(photos) / 2, "three splits are this one: a few samples of each are read"
    assert found.train.gather(torch.tensor([0, 119]))["label"].tolist() == [0, 2]


@pytest.mark.parametrize("kind", ["subset", "nested", "joined", "split"])
def test_parts_of_a_folder_keep_its_names(tmp_path: Path, run: RunSpec, kind: str) -> None:
    photos = folder(tmp_path)
    given: Any = {
        "subset": lambda: Subset(photos, range(0, 18, 2)),
        "nested": lambda: Subset(Subset(photos, range(18)), torch.arange(0, 18, 2).tolist()),
        "joined": lambda: ConcatDataset([Subset(photos, range(3)), photos]),
        "split": lambda: random_split(photos, [10, 8])[0],
    }[kind]()
    found = look(run, given)
    assert (found.classes, found.class_names) == (3, NAMES)


def test_a_class_that_a_part_lacks_counts_and_is_named(
    tmp_path: Path, run: RunSpec, caplog: pytest.LogCaptureFixture
) -> None:
    photos = folder(tmp_path)
    assert look(run, Subset(photos, range(12)), photos).classes == 3
    assert "validation has classes that train does not have: cow" in caplog.text
    caplog.clear()
    assert look(run, Subset(photos, range(12))).classes == 3
    assert "no sample is of 1 of the 3 classes: cow" in caplog.text


def test_folders_that_number_other_classes_are_refused(tmp_path: Path, run: RunSpec) -> None:
    one, other = folder(tmp_path / "a"), folder(tmp_path / "b", NAMES[1:])
    with pytest.raises(UserError, match=r"class 0 is called 'ant' in train and 'bee' in validation"):
        look(run, one, other)
    with pytest.raises(UserError, match=r"'ant' in part 1 of train and 'bee' in part 2 of train"):
        look(run, ConcatDataset([one, other]))


def test_labels_that_the_set_s_own_transform_changes_are_those_that_count(
    tmp_path: Path, run: RunSpec
) -> None:
    merged = folder(tmp_path, target_transform=lambda label: min(label, 1))
    found = look(run, merged)
    assert (found.classes, found.class_names) == (2, None)


@pytest.mark.parametrize(("given", "kept"), [(3, NAMES), (5, None)])
def test_said_classes_go_before_names(
    tmp_path: Path, run: RunSpec, caplog: pytest.LogCaptureFixture, given: int, kept: Any
) -> None:
    found = look(run, folder(tmp_path), classes=given)
    assert (found.classes, found.class_names) == (given, kept)
    assert ("classes: 5, and the sets name 3" in caplog.text) == (kept is None)


def test_what_does_not_say_its_labels_is_asked_for_classes(tmp_path: Path, run: RunSpec) -> None:
    silent = Counted(folder(tmp_path))
    with pytest.raises(UserError, match=r"classes=N: train \(Counted\) does not say it.*images are not read"):
        look(run, silent)
    assert len(silent.read) <= 8
    assert look(run, silent, classes=3).classes == 3
    assert look(run, silent, student=nn.Sequential(nn.Flatten(), nn.Linear(192, 4))).classes == 4
    late = look(run, silent, classes=2)
    with pytest.raises(
        UserError, match=r"train, sample 12: label: expected a class from 0 to 1, got 2.*classes="
    ):
        late.train.gather(torch.arange(18))


def test_labels_beside_samples_that_are_not_theirs_are_said(tmp_path: Path, run: RunSpec) -> None:
    silent = Counted(folder(tmp_path))
    silent.targets = [0] * 18  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"sample 6 has 1, and beside it stands 0"):
        look(run, silent)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield picture(0), 0


def test_a_loader_is_refused_with_where_its_settings_go(tmp_path: Path, run: RunSpec) -> None:
    photos = folder(tmp_path)
    loader = DataLoader(
        photos, 7, sampler=WeightedRandomSampler([1.0] * 18, 18), num_workers=2, collate_fn=lambda rows: rows
    )
    with pytest.raises(UserError) as caught:
        look(run, loader)
    for word in ("loader.dataset", "training.batch_size (7)", "resources.loaders (2)", "collate_fn"):
        assert word in str(caught.value)
    assert "WeightedRandomSampler" in str(caught.value)
    with pytest.raises(UserError) as caught:
        look(run, DataLoader(photos, 7, shuffle=True))
    assert "sampler" not in str(caught.value)
    assert "collate_fn" not in str(caught.value)
    with pytest.raises(UserError, match=r"map-style.*Stream.*list\(dataset\)"):
        look(run, DataLoader(Stream()))


def hugging_face(count: int = 18, image: str = "image", label: str = "label", **more: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    labels = [index % 3 for index in range(count)]
    features = {image: datasets.Image(), label: datasets.ClassLabel(names=list(NAMES))}
    columns = {image: [picture(kind, i) for i, kind in enumerate(labels)], label: labels}
    for name, values in more.items():
        features[name], columns[name] = datasets.ClassLabel(names=["few", "many"]), values
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def shown(rows: Any) -> Any:
    return {"pixel_values": [to_tensor(image) for image in rows["image"]], "labels": rows["label"]}


def formatted(kind: str) -> Any:
    given = hugging_face()
    given.set_format(kind)
    return given


TAKEN: dict[str, Any] = {
    "as it is": hugging_face,
    "other names": lambda: hugging_face(image="img", label="fine_label"),
    "names of one's own": lambda: hugging_face(image="photo", label="kind"),
    "a transform": lambda: hugging_face().with_transform(shown),
    "torch": lambda: formatted("torch"),
    "numpy": lambda: formatted("numpy"),
    "a Subset": lambda: Subset(hugging_face(27), range(18)),
    "chosen": lambda: hugging_face(27).select(range(18)),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_set_of_hugging_face_is_read_as_its_pictures_are(run: RunSpec, kind: str) -> None:
    found = look(run, TAKEN[kind]())
    assert (found.classes, found.class_names, found.channels) == (3, NAMES, 3)
    index = torch.tensor([1, 17])
    rows = found.train.gather(index)
    assert rows["label"].tolist() == [1, 2]
    expected = torch.stack([to_tensor(picture(i % 3, i)) for i in index.tolist()])
    assert torch.equal(rows["image"], expected)


def refused(kind: str) -> Any:
    import datasets

    whole = hugging_face()
    return {
        "several labels": lambda: hugging_face(image="img", label="fine_label", coarse_label=[0, 1] * 9),
        "several images": lambda: whole.with_transform(lambda rows: {**rows, **shown(rows)}),
        "several splits": lambda: datasets.DatasetDict({"fit": whole, "held": whole}),
        "streamed": whole.to_iterable_dataset,
        "bytes": lambda: whole.cast_column("image", datasets.Image(decode=False)),
        "words": lambda: whole.cast_column("label", datasets.Value("string")),
        "no labels": lambda: whole.remove_columns("label"),
        "frames": lambda: whole.with_format("pandas"),
    }[kind]()


REFUSED = {
    "several labels": ["fine_label, coarse_label", "remove_columns(['coarse_label'])"],
    "several images": ["image, pixel_values", "remove_columns"],
    "several splits": ["DatasetDict", "fit, held", "dataset['fit']"],
    "streamed": ["IterableDataset", "streaming=True"],
    "bytes": ["sample 0", "cast_column"],
    "words": ["'label' holds text", "class_encode_column('label')"],
    "no labels": ["classes called 'label'", "no other column"],
    "frames": ["DataFrame", "with_format(None)"],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_clear_of_a_set_of_hugging_face_is_asked_for_by_name(run: RunSpec, kind: str) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(UserError) as caught:
        look(run, refused(kind))
    for word in ["train", *REFUSED[kind]]:
        assert word in str(caught.value), str(caught.value)


def test_masks_of_hugging_face_are_the_numbers_in_their_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    numbers = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    mask = Image.fromarray(numbers)
    palette = mask.copy()
    palette.putpalette([7, 8, 9] * 256)
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    columns = {"image": [picture(0)] * 12, "annotation": [mask, palette] * 6}
    run = spec(tmp_path, task="segmentation", dataset="scenes")
    found = look(run, datasets.Dataset.from_dict(columns, features=features), classes=3)
    rows = found.train.gather(torch.arange(2))
    assert torch.equal(rows["mask"], torch.from_numpy(numbers).long().expand(2, 8, 8))
    columns["annotation"] = [picture(0)] * 12
    with pytest.raises(UserError, match=r"train, sample 0: mask: .*mode 'RGB'"):
        look(run, datasets.Dataset.from_dict(columns, features=features), classes=3)


def test_datasets_is_not_imported_for_it() -> None:
    code = "import sys, ray_kd.training.own_objects; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
