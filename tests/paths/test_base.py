"""What the base promises beyond the conformance suite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ray_kd.config.errors import UserError
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths import create_path
from ray_kd.testing.scenes import SCENES, Scene, tensors

WIDTHS: dict[str, Any] = {"student_channels": (4, 6), "teacher_channels": (4, 6)}

PUBLISHED = {
    "attention_transfer": (1000, 0),
    "correlation": (100, 0),
    "crd": (0.8, 0),
    "dist": (2, 0),
    "distillation_token": (1, 0),
    "dkd": (1, 20),
    "feature_map": (1, 0),
    "hint": (100, 0),
    "logits": (0.1, 0),
    "nst": (10, 0),
    "nst_mmd": (50, 0),
    "pkt": (30000, 0),
    "review": (1, 20),
    "rkd": (1, 0),
    "similarity": (3000, 0),
    "soft_target": (0.1, 0),
    "softmax_regression": (1, 0),
    "vid": (1, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weight_and_warm_up(name: str) -> None:
    cls = PATHS.get(name)
    assert (cls.published_weight, cls.Options().warmup_epochs) == PUBLISHED[name]
    assert cls.source


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("soft_targt", {}, "soft_target"),
        ("soft_target", {"temprature": 2}, "temperature"),
        ("soft_target", {"temperature": 0}, "temperature"),
        ("soft_target", {"stages": (0,)}, "stages"),
        ("nst", {"stages": (2,)}, "stages 0 to 1"),
        ("nst", {"stages": (-1,)}, "does not exist"),
        ("nst", {"stages": (0, 0)}, "distinct"),
        ("nst", {"stages": ()}, "not empty"),
        ("nst", {"corrupt": "shufle"}, "shuffle"),
        ("softmax_regression", {"stages": (0,)}, "last stage"),
        ("dkd", {"warmup_epochs": -1}, "warmup_epochs"),
    ],
)
def test_mistakes_are_named(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        create_path(name, **WIDTHS, **options)


def test_widths_that_need_an_adapter() -> None:
    with pytest.raises(UserError, match="adapter"):
        create_path("nst", student_channels=(4,), teacher_channels=(5,), adapter=None)


@pytest.mark.parametrize("name", ["nst", "attention_transfer", "crd", "channel_wise", "review"])
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_feature_maps_of_a_network_without_taps(name: str, side: str) -> None:
    options = {"on": "features"} if name == "channel_wise" else {}
    with pytest.raises(UserError, match=f"feature maps, and the {side} has none.*stage_channels"):
        create_path(name, **{**WIDTHS, f"{side}_channels": ()}, **options)


def test_outputs_that_lack_something() -> None:
    with pytest.raises(UserError, match="logits"):
        create_path("logits", **WIDTHS).target(Outputs())
    with pytest.raises(UserError, match="stage 1"):
        create_path("nst", **WIDTHS).target(Outputs((torch.ones(2, 4, 2, 2),)))


def test_head_is_a_frozen_copy_in_evaluation_mode() -> None:
    scene = Scene()
    scene.teacher_model.head = nn.Sequential(nn.Dropout(0.9), nn.Linear(12, 5))
    path: Any = create_path(
        "softmax_regression",
        student_channels=scene.student_channels,
        teacher_channels=scene.teacher_channels,
    )
    with pytest.raises(UserError, match="bind"):
        path(scene.student, path.target(scene.teacher))
    with pytest.raises(UserError, match="head"):
        path.bind(nn.Linear(2, 2))
    path.bind(scene.teacher_model)
    path.train()
    assert not any(module.training for module in path.head.modules())
    assert not any(parameter.requires_grad for parameter in path.head.parameters())
    assert path.head[1].weight is not scene.teacher_model.head[1].weight
    losses = [path(scene.student, path.target(scene.teacher))["softmax_regression"] for _ in range(2)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", ["attention_transfer", "nst", "nst_mmd", "hint", "vid", "review"])
@pytest.mark.parametrize("sizes", [(8, 4), (4, 8)])
def test_maps_of_other_sizes(name: str, sizes: tuple[int, int]) -> None:
    student, teacher = (
        Outputs((torch.rand(3, 4, side, side, requires_grad=True), torch.rand(3, 6, side // 2, side // 2)))
        for side in sizes
    )
    path = create_path(name, **WIDTHS)
    losses = path(student, path.target(teacher))
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("name", ["attention_transfer", "nst", "nst_mmd", "hint", "fpn_imitation", "pkd"])
@pytest.mark.parametrize("side", [4, 16])
def test_it_is_the_students_map_that_is_resized(name: str, side: int) -> None:
    """Averaged where it is larger, repeated where it is smaller; published code averages the larger one."""
    torch.manual_seed(0)
    student, teacher = torch.rand(3, 80, side, side), torch.rand(3, 80, 8, 8)
    options = {"adapter": None} if name in ("nst", "hint") else {}
    if name == "hint":
        options["stages"] = (0,)
    path = create_path(name, student_channels=(80,), teacher_channels=(80,), **options)

    def loss(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        return next(iter(path(Outputs((ours,)), path.target(Outputs((theirs,)))).values())).item()

    resized = F.interpolate(student, scale_factor=2) if side == 4 else F.avg_pool2d(student, 2)
    assert loss(student, teacher) == pytest.approx(loss(resized, teacher))
    if side == 4:
        assert loss(student, teacher) != pytest.approx(loss(student, F.avg_pool2d(teacher, 2)), rel=0.02)


@pytest.mark.parametrize("channels", [4, 6, 10, 40])
def test_nst_keeps_its_digits_close_to_the_teacher(channels: int) -> None:
    """A student 1e-4 away: float32 agrees with float64 to three digits, in every form of the loss."""
    torch.manual_seed(0)
    teacher = torch.rand(4, channels, 2, 2, dtype=torch.float64)
    student = teacher + 1e-4 * torch.randn_like(teacher)
    values = []
    for dtype in (torch.float64, torch.float32):
        path = create_path(
            "nst", student_channels=(channels,), teacher_channels=(channels,), adapter=None
        ).to(dtype)
        ours, theirs = Outputs((student.to(dtype),)), Outputs((teacher.to(dtype),))
        values.append(float(path(ours, path.target(theirs))["nst/stage0"]))
    assert values[1] == pytest.approx(values[0], rel=5e-3)


def test_two_paths_of_one_kind_draw_different_adapters() -> None:
    one, other = (create_path("nst", **WIDTHS, label=label) for label in "ab")
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert one.keys == ("a/stage0", "a/stage1")


@pytest.mark.parametrize("task", SCENES)
def test_student_and_teacher_of_a_scene_differ(task: str) -> None:
    """A suite on outputs that are equal would see losses of 0, and pass what is wrong."""
    scene = SCENES[task]()
    # What the student alone has, the head of its distillation token, comes last.
    for ours, theirs in zip(tensors(scene.student), tensors(scene.teacher), strict=False):
        assert ours.shape != theirs.shape or not torch.allclose(ours, theirs)
