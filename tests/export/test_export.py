"""A student that leaves: files that need no ray-kd, its metric and its outputs."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from ray_kd import RunSpec, distill
from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import MODELS
from ray_kd.export import Exported, export_run
from ray_kd.export.choose import choose_run
from ray_kd.export.forms import FORMS, wanted_forms
from ray_kd.export.run import read_run
from ray_kd.export.verify import ALONE, require_recorded, require_same_outputs
from ray_kd.models.create import draw_model
from ray_kd.storage import Store
from tests.export.networks import NETWORKS, changes
from tests.helpers import daily, tiny
from tests.training.runs import weights

QUICK = ("torchvision", "scenes_detector")
"""Beside the run of ``storage``."""
FIRST = ("digits_cnn",)
"""What a change has to pass; the others are the rest of a large product."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run with a teacher and two paths."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("storage")
    distill(tiny(folder, paths=["soft_target", "nst"], aggregation="adaptive"))
    return folder


@pytest.fixture(scope="module")
def former(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, Path]:
    """Its export, and the folder that it was made in."""
    base = tmp_path_factory.mktemp("former")
    return export_run(storage, student_of(storage)[:8], base / "deep" / "out"), base / "deep"


def student_of(storage: Path) -> str:
    return tiny(storage, paths=["soft_target", "nst"], aggregation="adaptive").identity()


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "export.json").read_text())
    return found


def alone(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A script in a process where ray-kd is as if it were not installed."""
    command = [sys.executable, "-P", "-c", ALONE, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_an_export_holds_what_its_reader_needs(storage: Path, former: tuple[Exported, Path]) -> None:
    identity, (done, base) = student_of(storage), former
    to = base / "out"
    summary = json.loads((storage / "runs" / identity / "summary.json").read_text())
    assert done.run == identity
    assert done.metric == ("top1", summary["best"]["test"]["top1"])
    assert set(done.differences) == {"safetensors", "torch.export"} == set(done.forms)
    found = about(to)
    assert found["class_names"] == list("0123456789")
    assert found["input"] == {
        "channels": 1,
        "height": 8,
        "width": 8,
        "mean": [0.5],
        "std": [0.5],
        "fit": None,
    }
    assert found["metric"]["recorded"] == pytest.approx(found["verified"]["torch.export"]["metric"], abs=1e-6)
    for name, values in weights(storage, summary, "best").items():
        assert torch.equal(values, load_file(to / "student.safetensors")[name]), name
    text = (to / "README.md").read_text()
    teacher = json.loads(next((storage / "runs").glob("*/summary.json")).read_text())
    assert teacher["status"] == "finished"
    for part in ("digits_cnn", "soft_target", "nst", "adaptive", f"{done.metric[1]:.4f}", "| 1 |", "| 3 |"):
        assert part in text, part
    assert "export_run(" in text
    assert not [name for name in base.iterdir() if name != to], "nothing else is left beside it"

    said = alone("check.py", cwd=to)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("ok") == 2

    samples = load_file(to / "samples.safetensors")
    program = torch.export.load(to / "student.pt2").module()
    for count in (1, 3, len(samples["image"])):
        outputs = program(samples["image"][:count])
        assert set(outputs) == {"logits"}
        assert torch.allclose(outputs["logits"], samples["output.logits"][:count], atol=1e-5)


def test_who_taught_the_teacher_is_known_too(tmp_path: Path) -> None:
    teacher = tiny(tmp_path).teachers["teacher"].model_dump(mode="json")
    assistant = {**teacher, "paths": [{"name": "soft_target", "label": "soft"}], "aggregation": "equal"}
    teachers = {"assistant": assistant, "big": teacher}
    short = {"epochs": 1, "batch_size": 40}
    run = tiny(tmp_path, teacher=None, training=short).to_dict()
    path = {"name": "nst", "teacher": "assistant"}
    spec = RunSpec.parse({**run, "teachers": teachers, "paths": [path]})
    known = read_run(Store(tmp_path), distill(spec)["identity"]).teachers
    runs = {name: taught.identity() for name, taught in spec.teacher_runs().items()}
    assert list(known) == ["assistant", "big"]
    assert known["assistant"].startswith(f"digits_cnn width=4, run {runs['assistant']}, test top1 0.")
    assert known["assistant"].endswith("; itself taught along soft from big")
    assert known["big"].startswith(f"digits_cnn width=4, run {runs['big']}, test top1 0.")


def test_what_is_damaged_afterwards_fails_its_own_check(
    former: tuple[Exported, Path], tmp_path: Path
) -> None:
    to = tmp_path / "out"
    shutil.copytree(former[1] / "out", to)
    file = to / "student.safetensors"
    data = bytearray(file.read_bytes())
    data[-64:] = b"\x3f" * 64
    file.write_bytes(bytes(data))
    said = alone("check.py", cwd=to)
    assert said.returncode == 1
    assert "WRONG safetensors" in said.stdout
    assert "ok    torch.export" in said.stdout


def test_the_process_that_checks_cannot_import_ray_kd(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import ray_kd.outputs")
    said = alone("script.py", cwd=tmp_path)
    assert said.returncode == 1
    assert "ray_kd" in said.stderr.splitlines()[-1]


def damage_values(data: bytes) -> bytes:
    """The same header, other values: nothing but a figure tells."""
    size = 8 + int.from_bytes(data[:8], "little")
    return data[:size] + bytes(len(data) - size)


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", damage_values])
def test_damaged_weights_are_not_exported_and_nothing_is_left(tmp_path: Path, damage: Any) -> None:
    spec = tiny(tmp_path / "results", teacher=None, training={"epochs": 8, "batch_size": 20})
    summary = distill(spec)
    recorded = summary["best"]["test"]["top1"]
    file = tmp_path / "results" / "runs" / summary["identity"] / "best.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError) as error:
        export_run(tmp_path / "results", summary["identity"], tmp_path / "a" / "out", ["torch.export"])
    if damage is damage_values:
        assert f"{recorded:.6f}" in str(error.value)
    else:
        assert "best.safetensors" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def test_other_outputs_and_figures_are_refused() -> None:
    metric = {"name": "top1", "recorded": 0.5}
    good = {"difference": 1e-6, "metric": 0.5, "moved": 0.0}
    require_same_outputs({"onnx": good}, metric)
    for wrong in ({"difference": 2e-4}, {"difference": float("nan")}, {"metric": 0.502}):
        with pytest.raises(UserError, match="onnx"):
            require_same_outputs({"onnx": {**good, **wrong}}, metric)
    require_recorded("onnx", 0.502, metric, moved=0.003)
    with pytest.raises(UserError, match=r"0\.600000.*0\.500000"):
        require_recorded("onnx", 0.6, metric, moved=1.0)


def test_only_a_folder_that_is_empty_or_a_former_export_is_written(
    storage: Path, former: tuple[Exported, Path], tmp_path: Path
) -> None:
    identity, to = student_of(storage), tmp_path / "out"
    to.mkdir()
    (to / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="1 files of another kind"):
        export_run(storage, identity, to)
    assert (to / "thesis.tex").read_text() == "mine"
    (to / "thesis.tex").unlink()
    shutil.copytree(former[1] / "out", to, dirs_exist_ok=True)
    (to / "left over").write_text("of a former export")
    export_run(storage, identity, to, ["torch.export"], last=True)
    assert about(to)["weights"]["which"] == "last"
    assert not (to / "left over").exists()
    (to / "export.json").write_text(json.dumps({**about(to), "run": "0" * 16}))
    with pytest.raises(UserError, match="an export of run 0000000000000000"):
        export_run(storage, identity, to)
    with pytest.raises(UserError, match="is a file"):
        export_run(storage, identity, to / "README.md")


def test_a_run_is_named_by_its_beginning(storage: Path, tmp_path: Path) -> None:
    store = Store(storage)
    runs = store.names("runs")
    for run in runs:
        assert choose_run(store, run) == run
    with pytest.raises(UserError) as error:
        choose_run(store, "no such run")
    assert "no run and no sweep" in str(error.value)
    Store(tmp_path).write("runs/abc1/x", b"")
    Store(tmp_path).write("runs/abc2/x", b"")
    with pytest.raises(UserError) as error:
        choose_run(Store(tmp_path), "abc")
    assert "abc1, abc2" in str(error.value)
    with pytest.raises(UserError, match="has not finished"):
        export_run(tmp_path, "abc1", tmp_path / "out")


def test_a_run_of_own_objects_is_exported_where_they_are_handed_over_again(tmp_path: Path) -> None:
    def net(width: int = 3) -> nn.Module:
        body = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(4 * width, 10))

    def pairs(count: int) -> list[tuple[torch.Tensor, int]]:
        return [(torch.full((1, 8, 8), index / count), index % 10) for index in range(count)]

    spec = RunSpec.parse({"training": {"epochs": 1, "batch_size": 10}, "storage": str(tmp_path)})
    test = pairs(20)
    summary = distill(spec, student=net(), train=pairs(30), validation=pairs(20), test=test)
    which, to = summary["identity"], tmp_path / "out"
    with pytest.raises(UserError, match=rf"export_run\(.*{which}.*student=\.\.\., test=\.\.\.\)"):
        export_run(tmp_path, which, to)
    with pytest.raises(UserError, match=r"student \(torch.*Sequential, 160 parameters\)\. Hand"):
        export_run(tmp_path, which, to, test=test)
    with pytest.raises(UserError, match=r"student\.tensors\.0\.weight was \[3, 1, 3, 3\], is \[5, 1, 3, 3\]"):
        export_run(tmp_path, which, to, student=net(5), test=test)
    with pytest.raises(UserError, match=r"dataset\.test\.length was 20, is 30"):
        export_run(tmp_path, which, to, student=net(), test=pairs(30))
    assert not to.exists()
    given = net()
    before = copy.deepcopy(given.state_dict())
    done = export_run(tmp_path, which, to, student=given, test=test)
    assert done.samples == len(test)
    assert done.metric == ("top1", summary["best"]["test"]["top1"])
    assert set(done.forms) == {"safetensors", "torch.export"}
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    given.load_state_dict(load_file(to / "student.safetensors"))
    program = torch.export.load(to / "student.pt2").module()
    images = torch.stack([image for image, _ in test])
    torch.testing.assert_close(program(images)["logits"], given.eval()(images))
    assert "ray-kd train" not in (to / "README.md").read_text()


def test_a_test_set_is_read_as_it_was_trained_on(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    def photos(count: int) -> Any:
        kinds = {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(3),
            "page": datasets.Value("int8"),
        }
        numbers = [index % 3 for index in range(count)]
        images = [Image.new("RGB", (8, 8), (80 * number, index, 0)) for index, number in enumerate(numbers)]
        columns = {"img": images, "fine_label": numbers, "page": numbers}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))

    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    spec = RunSpec.parse({"training": {"epochs": 1, "batch_size": 9}, "storage": str(tmp_path)})
    which = distill(spec, student=net(), train=photos(18), validation=photos(9), test=photos(12))["identity"]
    with pytest.raises(UserError, match=r"test: expected a dataset, got a DataLoader"):
        export_run(tmp_path, which, tmp_path / "out", student=net(), test=DataLoader(photos(12)))
    compiled = torch.compile(net(), backend="eager")
    assert export_run(tmp_path, which, tmp_path / "out", student=compiled, test=photos(12)).samples == 12


@pytest.mark.exhaustive
def test_an_own_detector_is_exported(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return draw_model(parse_component(MODELS, "scenes_detector"), classes=2, channels=1, seed=0)

    box = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 24.0]]), "box_label": torch.tensor([1])}
    rows = [{"image": torch.full((1, 32, 32), index / 9), **box} for index in range(9)]
    short = {"epochs": 1, "batch_size": 9}
    spec = RunSpec.parse({"task": "detection", "training": short, "storage": str(tmp_path)})
    which = distill(spec, student=net(), train=rows, validation=rows, test=rows)["identity"]
    assert export_run(tmp_path, which, tmp_path / "out", student=net(), test=rows).metric[0] == "map"


def test_what_a_spec_names_is_not_handed_over(tmp_path: Path) -> None:
    spec = tiny(tmp_path, teacher=None, training={"epochs": 1, "batch_size": 30})
    network = draw_model(spec.student, classes=10, channels=1, seed=0)
    which = distill(spec, student=network)["identity"]
    with pytest.raises(UserError, match=r"test: run .* none of your own, but 'digits'"):
        export_run(tmp_path, which, tmp_path / "out", student=network, test=[(torch.zeros(1, 8, 8), 0)])


def test_forms_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_forms(["onnx", " safetensors", ""]) == ["safetensors", "onnx"]
    with pytest.raises(UserError, match=r"unknown form 'onx'.*onnx"):
        wanted_forms(["onx"])
    with pytest.raises(UserError, match="got none"):
        wanted_forms([""])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(UserError, match=r"pip install 'ray-kd\[onnx\]'"):
        wanted_forms(["onnx"])
    assert wanted_forms(["safetensors"]) == ["safetensors"]


def exported(network: str, forms: list[str], root: Path) -> dict[str, Any]:
    spec = tiny(root / "results", **changes(network, root))
    summary = distill(spec)
    export_run(root / "results", summary["identity"], root / "out", forms)
    return about(root / "out")


@pytest.mark.parametrize("network", daily(QUICK))
def test_a_network_leaves_as_weights_and_program(network: str, tmp_path: Path) -> None:
    found = exported(network, ["safetensors"], tmp_path)
    from_library = network == "torchvision"
    assert (found["library_call"] is not None) == from_library
    assert found["forms"] == (["safetensors"] if from_library else ["safetensors", "torch.export"])
    assert all(result["difference"] <= 1e-4 for result in found["verified"].values())
    assert (network == "scenes_detector") == ("bins" in found["outputs"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [name if name in FIRST else pytest.param(name, marks=pytest.mark.exhaustive) for name in NETWORKS],
)
def test_every_network_leaves_in_every_form(network: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    found = exported(network, list(FORMS), tmp_path)
    assert set(found["verified"]) == set(FORMS)
    for form, result in found["verified"].items():
        assert result["difference"] <= 1e-4, form
        if found["task"] != "detection":
            assert result["metric"] == pytest.approx(found["metric"]["recorded"], abs=0.01), form
