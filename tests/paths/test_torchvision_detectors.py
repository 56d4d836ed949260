"""Paths between torchvision's detectors: anchors, edge distances, two stages."""

from __future__ import annotations

import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.models import create_model
from ray_kd.outputs import Outputs
from ray_kd.paths import create_path

DENSE = ["class_logit", "box_regression", "fgfi", "box_mask", "fgd", "pkd"]
PATHS = {
    "fcos": DENSE,
    "retinanet": DENSE,
    "fasterrcnn": ["roi_logit", "roi_box", "box_regression", "fgfi", "box_mask", "pkd"],
}


def batch() -> dict[str, torch.Tensor]:
    """Two images of 64 x 96 pixels, the second without objects."""
    boxes = torch.tensor([[[8.0, 6, 40, 44], [50, 10, 90, 60]], [[0.0] * 4] * 2])
    label = torch.tensor([[1, 0], [-1, -1]])
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    return {"image": image, "boxes": boxes, "box_label": label, "sample": torch.arange(2)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(PATHS))
def test_paths_reach_the_student(kind: str) -> None:
    here = batch()
    student, teacher = (
        create_model(
            "torchvision_detector",
            arch=f"{kind}_resnet18_fpn",
            classes=3,
            channels=3,
            proposals=20,
            seed=seed,
        )
        for seed in (0, 1)
    )
    with torch.no_grad():
        theirs: Outputs = teacher.eval()(here["image"])
    student.train()
    for name in PATHS[kind]:
        path = create_path(
            name, student_channels=student.stage_channels, teacher_channels=teacher.stage_channels
        )
        target = path.target(theirs)
        assert all(len(values) == 2 and not values.requires_grad for values in target.values())
        student.zero_grad()
        total = torch.stack(list(path(student(here["image"]), target, here).values())).sum()
        total.backward()
        assert float(total.detach()) > 0, name
        gradients = [p.grad for p in student.parameters() if p.grad is not None]
        assert all(bool(gradient.isfinite().all()) for gradient in gradients), name
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0, name
    wrong = "class_logit" if kind == "fasterrcnn" else "roi_logit"
    path = create_path(wrong, student_channels=(256,), teacher_channels=(256,))
    with pytest.raises(UserError, match=wrong):
        path.target(theirs)
