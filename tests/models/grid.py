"""Small random networks of many families, and whether every path takes a step between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.registry import PATHS
from ray_kd.models import create_model
from ray_kd.paths import create_path
from ray_kd.teacher import LiveTeacher
from tests.models import small
from tests.models.small import CONVNEXT, DEIT, RESNET, SEGFORMER, SWIN, VIT

CLASSES, SAMPLES = 5, 8


@dataclass(frozen=True)
class Row:
    """A network beside one of another family.

    Attributes:
        options: the network.
        other: what it learns from, and teaches.
        task: of both.
        side: height and width of the images.
    """

    options: dict[str, Any]
    other: str
    task: str = "classification"
    side: int = 32


def timm(model: str, **arguments: Any) -> dict[str, Any]:
    return {"name": "timm", "model": model, **({"arguments": arguments} if arguments else {})}


def config(keys: dict[str, Any], task: str = "classification") -> dict[str, Any]:
    return {"name": "huggingface", "config": keys, "task": task}


REGISTERS = timm("vit_small_patch14_reg4_dinov2", patch_size=8, embed_dim=12, depth=4, num_heads=2)
DINOV2 = {**small.HF_VIT, "model_type": "dinov2", "mlp_ratio": 1}
MOBILENET = {"model_type": "mobilenet_v2", "depth_multiplier": 0.25}
PARTNERS: dict[str, dict[str, Any]] = {
    "a ViT": VIT,
    "a ResNet": config(RESNET),
    "a CNN": {"name": "scenes_segnet", "width": 4},
}
NETWORKS: dict[str, Row] = {
    "timm resnet18": Row(timm("resnet18"), "a ViT"),
    "timm regnetx_002": Row(timm("regnetx_002"), "a ViT"),
    "timm convnext_atto": Row(timm("convnext_atto"), "a ViT"),
    "timm mobilenetv3_small_050": Row(timm("mobilenetv3_small_050"), "a ViT"),
    "timm efficientnet_lite0": Row(timm("efficientnet_lite0"), "a ViT"),
    "timm vit_tiny_patch16_224": Row(VIT, "a ResNet"),
    "timm deit_tiny_distilled_patch16_224": Row(DEIT, "a ResNet"),
    "timm vit_small_patch14_reg4_dinov2": Row(REGISTERS, "a ResNet"),
    "timm swin_tiny_patch4_window7_224": Row(SWIN, "a ResNet"),
    "timm mixer_s32_224": Row(timm("mixer_s32_224"), "a ResNet", side=64),
    "timm levit_128s": Row(timm("levit_128s"), "a ResNet", side=64),
    "timm pvt_v2_b0": Row(timm("pvt_v2_b0"), "a ResNet"),
    "torchvision mobilenet_v3_small": Row({"name": "torchvision", "arch": "mobilenet_v3_small"}, "a ViT"),
    "transformers vit": Row(config(small.HF_VIT), "a ResNet"),
    "transformers deit": Row(config(small.HF_DEIT), "a ResNet"),
    "transformers dinov2": Row(config(DINOV2), "a ResNet"),
    "transformers swin": Row(config(small.HF_SWIN), "a ResNet"),
    "transformers segformer": Row(config(SEGFORMER), "a ViT"),
    "transformers convnext": Row(config(CONVNEXT), "a ViT"),
    "transformers resnet": Row(config(RESNET), "a ViT"),
    "transformers mobilenet_v2": Row(config(MOBILENET), "a ViT"),
    "transformers segformer, segmentation": Row(
        config(SEGFORMER, "segmentation"), "a CNN", "segmentation", 64
    ),
    "transformers mobilenet_v2, segmentation": Row(
        config(MOBILENET, "segmentation"), "a CNN", "segmentation", 64
    ),
}
QUICK = (
    "timm vit_tiny_patch16_224",
    "timm deit_tiny_distilled_patch16_224",
    "timm swin_tiny_patch4_window7_224",
    "transformers segformer, segmentation",
)
"""Those that every run of the tests tries."""


def made(options: dict[str, Any], side: int) -> Any:
    """A network for images of three channels."""
    return create_model(**options, classes=CLASSES, channels=3, size=(side, side))


def batch(side: int) -> dict[str, Tensor]:
    """Images with everything that a path may need of them."""
    draw = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(SAMPLES, 3, side, side, generator=draw),
        "label": torch.arange(SAMPLES) % CLASSES,
        "sample": torch.arange(SAMPLES),
        "mask": torch.randint(CLASSES, (SAMPLES, side, side), generator=draw),
    }


def step(path_name: str, student: Any, teacher: Any, seen: dict[str, Tensor]) -> str:
    """What a path says of a pair, or nothing, where student and adapters got a gradient and took a step.

    Raises:
        AssertionError: a loss or a gradient is not finite, or reaches nothing.
    """
    widths = {"student_channels": student.stage_channels, "teacher_channels": teacher.stage_channels}
    try:
        path = create_path(path_name, **widths)
        path.bind(teacher)
        student.predict_extra(set(path.reads))
        target = path.target(LiveTeacher(teacher, torch.device("cpu")).outputs(seen["image"]))
        losses = path(student.train()(seen["image"]), target, seen)
    except UserError as error:
        return str(error)
    loss = torch.stack(list(losses.values())).sum()
    assert loss.isfinite(), path_name
    trained = [*student.parameters(), *(p for p in path.parameters() if p.requires_grad)]
    optimizer = torch.optim.SGD(trained, lr=1e-6)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    loss.backward()
    for name, parameter in path.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, f"{path_name}: {name}"
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert any(bool(gradient.any()) for gradient in gradients), path_name
    assert all(bool(gradient.isfinite().all()) for gradient in gradients), path_name
    optimizer.step()
    assert all(bool(value.isfinite().all()) for value in student.parameters()), path_name
    student.zero_grad()
    student.load_state_dict(before)  # the next path begins where this one did
    return ""


def refused(row: Row, teaches: bool) -> dict[str, str]:
    """The paths that refuse a network in a role, each with what it says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own, other = made(row.options, row.side), made(PARTNERS[row.other], row.side)
        student, teacher = (other, own) if teaches else (own, other)
        seen = batch(row.side)
        names = [name for name in PATHS.names() if row.task in PATHS.get(name).tasks]
        found = {name: step(name, student, teacher, seen) for name in names}
    return {name: said for name, said in found.items() if said}


def line(name: str) -> str:
    """The network's row in docs/models.md."""
    row = NETWORKS[name]
    taps = made(row.options, row.side).described
    layout = taps[0].layout + (f", {taps[0].prefix} before" if taps[0].layout == "NLC" else "")
    strides = " ".join(tap.stride for tap in taps)
    roles = []
    for teaches in (False, True):
        left_out = ", ".join(f"`{path}`" for path in refused(row, teaches))
        roles.append(f"all but {left_out}" if left_out else "all")
    return f"| {name} | {layout} | {strides} | {row.other} | {roles[0]} | {roles[1]} |"
