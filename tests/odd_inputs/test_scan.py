"""``doctor --scan``: a whole dataset read once, and what was found as a table."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image

from ray_kd.cli.main import main
from ray_kd.data.base import Dataset, MapSplit, TensorSplit
from ray_kd.data.scan import ScanResult, checked_splits, scan
from tests.data.formats import VOC, load, make_coco, make_folder, make_voc, picture, voc_object
from tests.odd_inputs.pictures import ODD
from tests.odd_inputs.test_every_dataset import MAKERS

ROOT = Path(__file__).parents[2]
TASKS = {"voc_segmentation": "segmentation", "cityscapes": "segmentation"}
TASKS |= {"voc_detection": "detection", "coco_detection": "detection"}


def run_file(root: Path, name: str, **options: Any) -> Path:
    """A run on a dataset; its other parts are never made."""
    task = TASKS.get(name, "classification")
    student = {
        "classification": "digits_cnn",
        "segmentation": "scenes_segnet",
        "detection": "scenes_detector",
    }
    file = root / "run.yaml"
    dataset = {"name": name, "root": str(root / "data"), "validation": 0.25, **options}
    run = {"task": task, "dataset": dataset, "student": {"name": student[task]}}
    run["views"] = "photo" if task == "classification" else "dense"
    file.write_text(yaml.safe_dump(run))
    return file


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """``ray-kd doctor --scan FILE`` on a terminal of 80 columns: exit code and what was said."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(file: Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main(["doctor", "--scan", str(file)])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def row(out: str, what: str) -> str:
    """The row of the table that begins so, on one line, its spaces single."""
    found = [" ".join(line.split()) for line in out.splitlines() if what in " ".join(line.split())]
    assert len(found) == 1, out
    return found[0]


@pytest.mark.parametrize("name", MAKERS)
def test_a_clean_dataset_passes(tmp_path: Path, doctor: Any, name: str) -> None:
    MAKERS[name][0](tmp_path / "data")
    code, out, err = doctor(run_file(tmp_path, name, labels=3))
    data = load(name, tmp_path / "data", validation=0.25)
    total = len(data.train) + len(data.validation) + len(data.test)
    assert code == 0, out + err
    assert (
        f"{name}: {total} samples read once, {data.classes_of(TASKS.get(name, 'classification'))} classes"
        in out
    )
    assert "no sample stops a run" in out
    assert re.search(rf"^train +{len(data.train)} ", out, re.M)  # all, whatever the budget of labels
    assert "STOPS" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_scenes_hold_masks_and_boxes_and_their_task_says_which(
    tmp_path: Path, doctor: Any, task: str
) -> None:
    run = {"task": task, "dataset": {"name": "scenes", "train": 20, "validation": 4, "test": 4}}
    model = {"segmentation": "scenes_segnet", "detection": "scenes_detector"}[task]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**run, "student": model, "views": "jitter"}))
    code, out, _ = doctor(tmp_path / "run.yaml")
    assert code == 0, out
    assert "scenes: 28 samples read once" in out


def test_what_stops_a_run_and_what_one_should_know(tmp_path: Path, doctor: Any) -> None:
    make_folder(tmp_path / "data", 10)
    folder = tmp_path / "data" / "train" / "dark"
    odd = ("JPEG cut in half", "floats", "CMYK JPEG", "16-bit grey PNG", "RGBA", "JPEG, orientation 6")
    for place, name in enumerate(odd):
        ODD[name](folder / f"odd{place}.jpg", 20, 30)
    shutil.copy(folder / "3.jpg", tmp_path / "data" / "val" / "dark" / "copy.jpg")
    Image.open(folder / "4.jpg").save(folder.parent / "bright" / "same.png")  # the same pixels otherwise
    code, out, _ = doctor(run_file(tmp_path, "image_folder"))
    assert code == 1
    assert row(out, "an image that cannot be read").startswith("STOPS an image that cannot be read 2 ")
    for what in (
        "mode CMYK 1",
        "mode I;16, more than 8 bits 1",
        "PNG called .jpg 2",
        "turned upright, by EXIF 1",
    ):
        assert f"note {what} " in row(out, what) + " "
    assert row(out, "labelled otherwise").startswith(
        "note same image, labelled otherwise 2"
    )  # and one of val
    assert re.search(r"same image in (train|validation) and test +\d", out)
    assert "odd0.jpg' cannot be read as an image" in out
    assert "odd1.jpg' holds floats (mode F)" in out
    table = out[: out.index("\n'")]
    assert max(map(len, table.splitlines())) <= 80


def test_masks_and_boxes_that_do_not_fit(tmp_path: Path, doctor: Any) -> None:
    make_voc(tmp_path / "data")
    base = tmp_path / "data" / VOC
    Image.fromarray(np.full((20, 30), 38, np.uint8)).save(base / "SegmentationClass" / "val1.png")
    Image.fromarray(np.full((10, 15), 1, np.uint8)).save(base / "SegmentationClass" / "val2.png")
    code, out, _ = doctor(run_file(tmp_path, "voc_segmentation"))
    assert code == 1
    assert row(out, "a mask that does not fit").startswith("STOPS a mask that does not fit 2")
    assert "38 is class 1's" in out

    for name in ("val0", "val1", "val3"):
        text = f"<annotation>{voc_object('dog', 0, 160, 160, 267, 267)}</annotation>"
        (base / "Annotations" / f"{name}.xml").write_text(text)
    code, out, _ = doctor(run_file(tmp_path, "voc_detection"))
    assert code == 1
    assert row(out, "boxes that do not fit").startswith("STOPS boxes that do not fit 3")


def test_annotations_that_cannot_be_opened_stop_with_one_message(tmp_path: Path, doctor: Any) -> None:
    make_coco(tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text().replace('"category_id": 7', '"category_id": 5'))
    code, out, err = doctor(run_file(tmp_path, "coco_detection"))
    assert (code, out) == (1, "")
    assert "category_id 5 is none of 'categories'" in err
    assert "no sample was read" in err
    assert "Traceback" not in err


def test_masks_in_black_and_white_are_doubted(tmp_path: Path, doctor: Any) -> None:
    """0 and 255 are VOC's background and what it ignores, and as likely somebody's two classes."""
    make_voc(tmp_path / "data")
    for file in (tmp_path / "data" / VOC / "SegmentationClass").glob("train*.png"):
        Image.fromarray(np.repeat(np.array([0, 255], np.uint8), 15)[None].repeat(20, 0)).save(file)
    _, out, _ = doctor(run_file(tmp_path, "voc_segmentation"))
    doubted = row(out, "a mask of class 0 and ignored")
    assert doubted.startswith("note a mask of class 0 and ignored")
    assert " 8 " in doubted


def test_a_scan_goes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--scan", "a.yaml", "--data", "a.yaml"])
    assert ended.value.code == 2
    assert "--scan cannot be combined with --data or --address" in capsys.readouterr().err


def test_classes_that_a_split_never_shows(tmp_path: Path, doctor: Any) -> None:
    make_voc(tmp_path / "data")
    _, out, _ = doctor(run_file(tmp_path, "voc_segmentation"))
    never = "1, 2, 3, 4, 5, 6, ..."
    assert row(out, "classes never in train") == f"note classes never in train 19 class {never}"


class Own(Dataset):
    """A registered dataset as somebody else writes it: splits over a map-style list."""

    def __init__(self, items: list[Any], classes: int = 3) -> None:
        self.train, self.validation = MapSplit(items), MapSplit(items[:1])  # type: ignore[assignment]
        self.test = self.validation
        self.classes, self.channels = classes, 1


def found(data: Dataset, processes: int = 0) -> ScanResult:
    splits = checked_splits(data)
    seen = ScanResult(splits, data.classes)
    for some in scan(splits, processes):
        for one in some:
            seen.add(one)
    return seen


def item(label: Any = 0, **values: Any) -> dict[str, Any]:
    return {"image": torch.rand(1, 8, 9), "label": torch.as_tensor(label), **values}


BOXES = torch.tensor([[1.0, 1, 5, 5]])
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "label -1": (item(-1), r"label: expected a class from 0 to 2, got -1"),
    "label 3": (item(3), r"label: expected a class from 0 to 2, got 3"),
    "a fraction": (item(1.5), r"label: expected the number of a class, got 1.5"),
    "two classes": (item([0, 1, 1]), r"label: expected one class \(or one-hot\), got \[0, 1, 1\]"),
    "NaN": ({**item(), "image": torch.full((1, 8, 9), torch.nan)}, r"a pixel is NaN"),
    "two channels": ({**item(), "image": torch.rand(2, 8, 9)}, r"expected images of 1 channels"),
    "mask of 3": ({"image": torch.rand(1, 8, 9), "mask": torch.full((8, 9), 3)}, r"mask: .*; got 3"),
    "mask of -1": ({"image": torch.rand(1, 8, 9), "mask": torch.full((8, 9), -1)}, r"mask: .*; got -1"),
    "mask of another size": (
        {"image": torch.rand(1, 8, 9), "mask": torch.ones(4, 9).long()},
        r"mask: expected one class for each of 8x9 pixels",
    ),
    "box outside": (
        {"image": torch.rand(1, 8, 9), "boxes": BOXES + 20, "box_label": torch.tensor([1])},
        r"boxes: expected pixels of an image of 8x9",
    ),
    "box inverted": (
        {"image": torch.rand(1, 8, 9), "boxes": BOXES.flip(1), "box_label": torch.tensor([1])},
        r"boxes: expected \(x1, y1, x2, y2\)",
    ),
    "object of class 3": (
        {"image": torch.rand(1, 8, 9), "boxes": BOXES, "box_label": torch.tensor([3])},
        r"box_label: expected a class from 0 to 2",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_registered_dataset_is_looked_at_item_by_item(kind: str) -> None:
    one, said = WRONG[kind]
    seen = found(Own([one, item(0), item(1)]))
    assert seen.read == seen.total == 4
    assert len(seen.problems) == 2  # in train, and in what is validation and test
    assert re.search(said, seen.problems[0][1])
    assert seen.problems[0][0] == "sample 0 of train"


@pytest.mark.parametrize("label", [1.0, [0, 1, 0], [1], True])
def test_a_scan_takes_what_training_takes(label: Any) -> None:
    seen = found(Own([item(label), item(label)]))
    assert not seen.problems
    assert seen.with_class["train"] == {1: 2}


class Broken:
    """A list whose second item raises."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        if index == 1:
            raise IndexError("no such record")
        return item(index)


def test_what_a_task_needs_has_to_be_there() -> None:
    data = Own([item(0)])
    splits = checked_splits(data)
    (one,) = [looked for some in scan({"train": splits["train"]}, 0, "segmentation") for looked in some]
    assert one.problem is not None
    assert "expected mask for the task segmentation, got only image, label" in one.problem[1]


def test_what_a_dataset_raises_is_found_and_the_scan_goes_on() -> None:
    data: Any = Own([item(0)])
    data.train = MapSplit(Broken())
    seen = found(data)
    assert seen.read == 4
    assert seen.problems == [("sample 1 of train", "IndexError: no such record")]


def test_the_same_image_in_two_splits_is_found_in_memory_too() -> None:
    images = torch.rand(4, 1, 8, 8)
    data: Any = Dataset()
    data.train = TensorSplit(images[:3], torch.tensor([0, 1, 2]))
    data.validation = TensorSplit(images[3:], torch.tensor([0]))
    data.test = TensorSplit(images[1:2], torch.tensor([1]))
    data.classes, data.channels = 3, 1
    rows = {line.what: line for line in found(data).rows()}
    assert rows["same image in train and test"].count == 1
    assert rows["same image in train and test"].example == "sample 1 of train = sample 0 of test"
    assert not any(line.stops for line in rows.values())


@pytest.mark.slow
def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    make_folder(tmp_path, 12)
    ODD["JPEG cut in half"](tmp_path / "train" / "dark" / "odd.jpg", 20, 30)
    data = load("image_folder", tmp_path, validation=0.25)
    alone, together = found(data), found(data, processes=2)
    assert together.problems == alone.problems
    assert together.rows() == alone.rows()
    assert together.sizes == alone.sizes
    own: Any = Own([item(0), item(1)])
    own.train.dataset = [lambda: None]  # no process can be handed it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MapSplit, "gather", lambda self, index: {"image": torch.rand(1, 1, 8, 8)})
        assert found(own, processes=2).read == 2


def listen_to_ctrl_c() -> None:
    """Programs that a shell starts in the background ignore SIGINT, and so does what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_ctrl_c_shows_what_was_found_so_far(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    make_folder(folder, 2)
    for place in range(400):
        os.link(folder / "train" / "dark" / "0.jpg", folder / "train" / "dark" / f"more{place}.jpg")
    picture(folder / "train" / "dark" / "a.jpg", 3000, 3000)
    for place in range(300):
        os.link(folder / "train" / "dark" / "a.jpg", folder / "train" / "dark" / f"z{place}.jpg")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "ray_kd", "doctor", "--scan", str(run_file(tmp_path, "image_folder"))]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=listen_to_ctrl_c
    )
    line = process.stderr.readline() if process.stderr is not None else ""
    assert line.startswith("read "), line
    readers = psutil.Process(process.pid).children(recursive=True)
    assert readers
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert re.search(r"ray-kd: stopped after [\d,]+ of [\d,]+ samples", err)
    assert "samples read once" in out
    assert not psutil.wait_procs(readers, timeout=60)[1]  # they end with it
