"""Weights from files and from torchvision's store: safe, whole, and clear where they do not fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from tests.helpers import TINY


def net(**options: Any) -> Any:
    return create_model("digits_cnn", classes=10, channels=1, **options)


def assert_same(one: Any, other: Any) -> None:
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("form", ["pt", "wrapped", "module", "compiled", "safetensors", "old"])
def test_every_usual_file_is_read(tmp_path: Path, form: str) -> None:
    source = net(seed=5)
    state = source.state_dict()
    file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, file)
    elif form == "wrapped":
        torch.save({"epoch": 3, "model": state, "optimizer": {"lr": 0.1}}, file)
    elif form == "old":
        torch.save({name: v for name, v in state.items() if "num_batches" not in name}, file)
    else:
        prefix = {"pt": "", "module": "module.", "compiled": "module._orig_mod."}[form]
        torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, file)
    assert_same(net(seed=1, weights=str(file)), source)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "evil.pt"
    torch.save({"state_dict": Evil()}, file)
    with pytest.raises(
        UserError, match=r"evil\.pt: no weights in it.*state_dict \(an object of 'posix\.mkdir'\)"
    ):
        net(weights=str(file))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: {n: v for n, v in s.items() if "head" not in n}, ["2 missing (head.bias, head.weight)"]),
        (lambda s: {**s, "extra": torch.ones(1)}, ["1 unexpected (extra)"]),
        (
            lambda s: {**s, "head.weight": torch.ones(7, 24)},
            ["of another shape", "7 classes", "10", "head: fresh"],
        ),
        (lambda s: {"epoch": 1, "seed": 2}, ["state_dict", "epoch, seed"]),
        (lambda s: [1], ["state_dict", "list"]),
    ],
)
def test_weights_that_do_not_fit_are_reported(tmp_path: Path, change: Any, says: list[str]) -> None:
    file = tmp_path / "weights.pt"
    torch.save(change(net().state_dict()), file)
    with pytest.raises(UserError) as error:
        net(weights=str(file))
    for word in ["weights.pt", *says]:
        assert word in str(error.value), str(error.value)


def test_a_fresh_head_keeps_the_draw_and_takes_the_rest(tmp_path: Path) -> None:
    source, file = create_model("digits_cnn", classes=7, channels=1, seed=5), tmp_path / "weights.pt"
    torch.save(source.state_dict(), file)
    model, drawn = net(seed=1, weights=str(file), head="fresh"), net(seed=1)
    assert torch.equal(model.head.weight, drawn.head.weight)
    assert_same(model.stages, source.stages)


DENSE = [
    ({"name": "scenes_segnet", "width": 4}, 11, "head.weight"),
    ({"name": "scenes_detector", "width": 4}, 10, "head.0.weight"),
    (
        {"name": "torchvision_segmentation", "arch": "lraspp_mobilenet_v3_large"},
        5,
        "classifier.low_classifier.weight",
    ),
    (
        {"name": "torchvision_detector", "arch": "fcos_resnet18_fpn"},
        5,
        "head.classification_head.cls_logits.weight",
    ),
]


@pytest.mark.parametrize(("model", "classes", "name"), DENSE, ids=[model["name"] for model, *_ in DENSE])
def test_networks_of_dense_tasks_take_a_file_and_report_what_does_not_fit(
    tmp_path: Path, model: dict[str, Any], classes: int, name: str
) -> None:
    def made(classes: int, **options: Any) -> Any:
        return create_model(classes=classes, channels=3, **model, **options)

    source, file = made(classes, seed=5), str(tmp_path / "weights.safetensors")
    state = source.state_dict()
    save_file(state, file)
    assert_same(made(classes, weights=file), source)
    with pytest.raises(UserError, match=rf"do not fit .* of another shape .*{classes} classes.*head: fresh"):
        made(classes + 1, weights=file)
    other, drawn = made(classes + 1, weights=file, head="fresh"), made(classes + 1)
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key] if value.shape == state[key].shape else drawn.state_dict()[key])
    assert other.state_dict()[name].shape != state[name].shape
    save_file({"backbone.extra": torch.ones(1), **{k: v for k, v in state.items() if k != name}}, file)
    with pytest.raises(UserError, match=rf"1 missing \({name}\); 1 unexpected \(backbone\.extra\)"):
        made(classes, weights=file)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            {"name": "torchvision_segmentation", "arch": "deeplabv3_resnet18", "weights": "IMAGENET1K_V1"},
            ["deeplabv3_resnet18", "arch: deeplabv3_resnet101", "backbone_weights: IMAGENET1K_V1"],
        ),
        (
            {"name": "torchvision_segmentation", "arch": "deeplabv3_resnet50", "weights": "COCO_V1"},
            ["COCO_WITH_VOC_LABELS_V1"],
        ),
        (
            {"name": "torchvision_detector", "arch": "retinanet_resnet18_fpn", "weights": "COCO_V1"},
            ["retinanet_resnet50_fpn", "backbone_weights"],
        ),
        ({"name": "scenes_detector", "weights": "COCO_V1"}, ["'scenes_detector'", ".safetensors"]),
        ({"name": "scenes_detector", "weights": "none.pt"}, ["no file 'none.pt'"]),
    ],
)
def test_weights_that_nobody_publishes_are_refused_with_what_there_is(
    model: dict[str, Any], says: list[str]
) -> None:
    with torch.device("meta"), pytest.raises(UserError) as error:
        create_model(classes=5, channels=3, **model)
    for word in ["weights", model["weights"], *says]:
        assert word in str(error.value), str(error.value)


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    torch.save(net(seed=5).state_dict(), one)
    two.write_bytes(one.read_bytes())

    def identity(file: Path) -> str:
        return RunSpec.parse({**TINY, "student": {"name": "digits_cnn", "weights": str(file)}}).identity()

    drawn = RunSpec.parse({**TINY, "student": "digits_cnn"}).identity()
    first = identity(one)
    assert first == identity(two) != drawn
    torch.save(net(seed=6).state_dict(), two)
    assert identity(two) != first
    one.unlink()
    with pytest.raises(UserError, match=r"'digits_cnn', weights.*one\.pt"):
        identity(one)


def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]) -> None:
    """A store of torchvision's with a file of resnet18's in it."""
    from torchvision.models import ResNet18_Weights

    entry = ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / Path(entry.url).name)


def test_names_of_torchvision_find_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    plain = torchvision.models.resnet18()
    published(tmp_path, monkeypatch, plain.state_dict())
    options = {"arch": "resnet18", "weights": "IMAGENET1K_V1"}
    assert_same(create_model("torchvision", classes=1000, channels=3, **options), plain)
    with pytest.raises(UserError, match=r"1000 classes and this network is for 10.*head: fresh"):
        create_model("torchvision", classes=10, channels=3, **options)
    model = create_model("torchvision", classes=10, channels=3, head="fresh", **options)
    assert torch.equal(model.net.layer4[1].conv2.weight, plain.layer4[1].conv2.weight)
    arch = {"arch": "fcn_resnet18", "backbone_weights": "IMAGENET1K_V1"}
    segmenter = create_model("torchvision_segmentation", classes=4, channels=3, **arch)
    assert torch.equal(segmenter.net.backbone.layer4[1].conv2.weight, plain.layer4[1].conv2.weight)


def test_without_a_network_it_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError) as error:
        create_model("torchvision", classes=10, channels=3, arch="resnet18", weights="IMAGENET1K_V1")
    for word in ("resnet18-f37072fd.pth", str(tmp_path / "hub" / "checkpoints"), "TORCH_HOME", "'weights'"):
        assert word in str(error.value), str(error.value)


def test_a_mobile_backbone_takes_its_classifiers_weights(tmp_path: Path) -> None:
    import torchvision

    plain, file = torchvision.models.mobilenet_v3_large(), tmp_path / "mobile.pt"
    torch.save(plain.state_dict(), file)
    arch = {"arch": "lraspp_mobilenet_v3_large", "backbone_weights": str(file)}
    model = create_model("torchvision_segmentation", classes=4, channels=3, **arch)
    assert torch.equal(model.net.backbone["16"][0].weight, plain.features[16][0].weight)
