"""torchvision's detectors: names, losses and detections are torchvision's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.models import StagedModel, create_model
from ray_kd.models.detection.anchors import objects_of
from ray_kd.models.detection.published import of_coco

CLASSES = 3
KINDS = ["fcos", "retinanet", "fasterrcnn"]
_BUILT: dict[str, StagedModel] = {}


def detector(kind: str) -> StagedModel:
    """One network for the file: nothing here trains it."""
    if kind not in _BUILT:
        arch = f"{kind}_resnet18_fpn"
        made = create_model("torchvision_detector", arch=arch, classes=CLASSES, channels=3, proposals=40)
        if kind != "fasterrcnn":  # answers that are not all alike
            nn.init.normal_(made.head.classification_head.cls_logits.weight, std=0.05)
            nn.init.normal_(made.head.regression_head.bbox_reg.weight, std=0.02)
        _BUILT[kind] = made
    return _BUILT[kind].eval()


def scene(empty: bool = False) -> dict[str, Tensor]:
    """Three images of 96 x 64 pixels with up to three objects; the last has none."""
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 3, 2, generator=draw) * 40
    boxes = torch.cat([corner, corner + 8 + 40 * torch.rand(3, 3, 2, generator=draw)], -1)
    label = torch.randint(CLASSES, (3, 3), generator=draw)
    label[1, 1:] = label[2] = -1
    if empty:
        label.fill_(-1)
    return {"image": torch.randn(3, 3, 96, 64, generator=draw), "boxes": boxes, "box_label": label}


def original(kind: str, model: Any, classes: int) -> Any:
    """torchvision's own detector with the same weights, images taken as they are."""
    from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet

    cls = {"fcos": FCOS, "retinanet": RetinaNet, "fasterrcnn": FasterRCNN}[kind]
    net = cls(model.backbone, classes + (kind == "fasterrcnn"), min_size=64, max_size=96)
    net.transform.image_mean, net.transform.image_std = [0.0] * 3, [1.0] * 3
    net.load_state_dict(model.state_dict())
    return net


@pytest.mark.parametrize(
    ("arch", "builder"),
    [
        ("fcos_resnet50_fpn", "fcos_resnet50_fpn"),
        ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn"),
        ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn"),
        ("fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_fpn"),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_weights_have_the_names_and_shapes_of_torchvision(arch: str, builder: str, frozen: bool) -> None:
    from torchvision.models import detection

    with torch.device("meta"):
        own = create_model("torchvision_detector", arch=arch, classes=5, channels=3, frozen_norm=frozen)
        classes = 5 + ("fasterrcnn" in arch)
        theirs = getattr(detection, builder)(weights=None, weights_backbone=None, num_classes=classes)
    expected = {name: value.shape for name, value in theirs.state_dict().items()}
    if frozen:
        expected = {n: s for n, s in expected.items() if not n.endswith("num_batches_tracked")}
    assert {name: value.shape for name, value in own.state_dict().items()} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_fit_together(kind: str) -> None:
    model, batch = detector(kind), scene()
    with torch.no_grad():
        outputs = model(batch["image"])
    head = outputs.head
    assert tuple(f.shape[1] for f in outputs.features) == model.stage_channels
    assert head.level_sizes == tuple(tuple(f.shape[-2:]) for f in outputs.features)
    length = len(head.priors)
    assert outputs.extra["regression"].shape == (3, length, 4)
    assert head.boxes(outputs).shape == (3, length, 4)
    positives = head.positives(outputs, batch)
    assert positives.shape == (3, length)
    assert positives[0].any()
    assert not positives[2].any()
    if kind == "fasterrcnn":
        assert outputs.logits is None
    else:
        assert outputs.logits.shape == (3, length, CLASSES)


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_losses_are_those_of_torchvision(kind: str) -> None:
    """RetinaNet's, which torchvision divides image by image, on one image."""
    model, batch = detector(kind), scene()
    if kind == "retinanet":
        batch = {name: values[:1] for name, values in batch.items()}
    net = original(kind, model, CLASSES).train()
    net.backbone.eval()
    expected = net(list(batch["image"]), objects_of(batch))
    outputs = model(batch["image"])
    found = {name: total / count for name, (total, count) in outputs.head.parts(outputs, batch).items()}
    names = {"class": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}
    assert len(found) == len(expected)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[names[name]], rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(
        outputs.head.loss(outputs, batch), sum(expected.values()), rtol=1e-4, atol=1e-6
    )


def test_two_stage_losses_are_those_of_torchvision() -> None:
    model, batch = detector("fasterrcnn"), scene()
    net = original("fasterrcnn", model, CLASSES).train()
    model.train()
    for one in (net.backbone, model.backbone):
        one.eval()
    torch.manual_seed(3)
    expected = net(list(batch["image"]), objects_of(batch, background=1))
    outputs = model(batch["image"])
    assert "proposals" not in outputs.extra, "a network that trains draws its own"
    torch.manual_seed(3)
    for _ in batch["image"]:
        torch.rand(1)  # torchvision's transform draws a size for each image, of one
    found = {name: total / count for name, (total, count) in outputs.head.parts(outputs, batch).items()}
    names = {
        "objectness": "loss_objectness",
        "proposal": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
    }
    for name, value in found.items():
        torch.testing.assert_close(value, expected[names[name]], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_detections_are_those_of_torchvision(kind: str) -> None:
    model, batch = detector(kind), scene()
    model.selection["least_score"] = 0.0
    with torch.no_grad():
        outputs = model(batch["image"])
        best = outputs.head.detections(outputs)["scores"].flatten().sort(descending=True).values
    model.selection["least_score"] = float(best[29:31].mean())
    net = original(kind, model, CLASSES).eval()
    (net.roi_heads if kind == "fasterrcnn" else net).score_thresh = model.selection["least_score"]
    with torch.no_grad():
        expected = net(list(batch["image"]))
        outputs = model(batch["image"])
        found = outputs.head.detections(outputs)
    count = 0
    for row, rows in enumerate(expected):
        there = found["labels"][row] >= 0
        order = rows["scores"].argsort(descending=True)
        torch.testing.assert_close(found["scores"][row][there], rows["scores"][order], rtol=1e-4, atol=1e-5)
        labels = rows["labels"] - int(kind == "fasterrcnn")
        assert sorted(found["labels"][row][there].tolist()) == sorted(labels.tolist())
        theirs = rows["boxes"][order].sort(0).values
        torch.testing.assert_close(found["boxes"][row][there].sort(0).values, theirs, rtol=1e-3, atol=1e-2)
        count += len(rows["scores"])
    assert count > 5


@pytest.mark.parametrize("kind", KINDS)
def test_without_objects_every_parameter_has_a_finite_gradient(kind: str) -> None:
    model, batch = detector(kind), scene(empty=True)
    model.train()
    model.zero_grad()
    outputs = model(batch["image"])
    loss = outputs.head.loss(outputs, batch)
    loss.backward()
    assert loss.isfinite()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.zero_grad()


def test_both_networks_answer_about_the_same_regions() -> None:
    model, batch = detector("fasterrcnn"), scene()
    with torch.no_grad():
        outputs = model(batch["image"])
    proposals = outputs.extra["proposals"]
    assert proposals.shape == (3, 40, 4)
    model.train()
    student = model(batch["image"])
    logits, offsets = student.head.roi(student, proposals)
    assert logits.shape == (3, 40, CLASSES + 1)
    assert offsets.shape == (3, 40, CLASSES + 1, 4)
    (logits.sum() + offsets.sum()).backward()
    assert model.backbone.body["conv1"].weight.grad.abs().sum() > 0
    model.zero_grad()
    model.eval()
    shuffled = proposals[:, torch.randperm(40)]
    with torch.no_grad():
        one, other = (outputs.head.roi(outputs.detach(), boxes)[0] for boxes in (proposals, shuffled))
    torch.testing.assert_close(one.sum(1), other.sum(1), rtol=1e-4, atol=1e-4)


def test_the_loss_of_a_network_that_does_not_train_leaves_the_stream_alone() -> None:
    model, batch = detector("fasterrcnn"), scene()
    with torch.no_grad():
        outputs = model(batch["image"])
        before = torch.get_rng_state()
        first = outputs.head.loss(outputs, batch)
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(3)
        assert torch.equal(first, outputs.head.loss(outputs, batch))


def test_images_of_one_channel_are_refused() -> None:
    with pytest.raises(UserError, match="3 channels"):
        create_model("torchvision_detector", arch="fcos_resnet18_fpn", classes=2, channels=1)


@pytest.mark.parametrize("kind", KINDS)
def test_published_rows_are_those_of_the_classes_that_coco_uses(kind: str) -> None:
    """Rows that say which number they are for, anchor by anchor and side by side."""
    with torch.device("meta"):
        arch = f"{kind}_resnet18_fpn"
        model = create_model("torchvision_detector", arch=arch, classes=80, channels=3)
    number = torch.arange(91.0)
    many = {"fcos": number, "retinanet": number.repeat(9), "fasterrcnn": number}[kind]
    state = {f"{name}.bias": many for name in model.last_layers}
    if kind == "fasterrcnn":
        state["roi_heads.box_predictor.bbox_pred.bias"] = number.repeat_interleave(4)
    found = of_coco(state, model.last_layers, 80, int(kind == "fasterrcnn"))
    own = model.state_dict()
    assert {name: value.shape for name, value in found.items()} == {name: own[name].shape for name in found}
    rows = found[f"{model.last_layers[0]}.bias"]
    first = [0.0, 1.0] if kind == "fasterrcnn" else [1.0, 2.0]
    assert rows[:2].tolist() == first, "person is number 1, behind the background"
    assert rows[-1] == 90, "toothbrush"
    assert of_coco(state, model.last_layers, 20, 0) is state


@pytest.mark.parametrize("frozen", [False, True])
def test_a_backbone_begins_with_a_classifiers_weights(frozen: bool, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    net = resnet18()
    torch.save(net.state_dict(), tmp_path / "resnet18.pt")
    options: dict[str, Any] = {"arch": "fcos_resnet18_fpn", "frozen_norm": frozen}
    weights = str(tmp_path / "resnet18.pt")
    model = create_model("torchvision_detector", classes=2, channels=3, backbone_weights=weights, **options)
    body = model.backbone.body.state_dict()
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in body.items())
    with pytest.raises(UserError, match="nobody publishes"):
        create_model("torchvision_detector", classes=2, channels=3, weights="COCO_V1", **options)
