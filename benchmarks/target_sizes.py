"""What one view of whole data sets takes as stored targets, from shapes alone: nothing is computed.

    python benchmarks/target_sizes.py

`ray-kd precompute RUN.yaml --plan` says the same of data that are there, for the paths that a run has.
"""

from __future__ import annotations

from typing import Any

import torch

from ray_kd import Outputs, create_path
from ray_kd.models import create_model

CASES: list[tuple[str, int, tuple[int, int], int, dict[str, Any]]] = [
    ("CIFAR-100, ResNet-50", 50_000, (32, 32), 100, {"name": "resnet", "depth": 50}),
    ("ImageNet, ResNet-34", 1_281_167, (224, 224), 1000, {"name": "torchvision", "arch": "resnet34"}),
    (
        "Cityscapes, DeepLabV3 R101",
        2_975,
        (512, 1024),
        19,
        {"name": "torchvision_segmentation", "arch": "deeplabv3_resnet101"},
    ),
    (
        "COCO, RetinaNet R50",
        118_287,
        (640, 640),
        80,
        {"name": "torchvision_detector", "arch": "retinanet_resnet50_fpn"},
    ),
]
SIZED = {
    "classification": ["soft_target", "attention_transfer", "feature_map", "nst", "hint"],
    "segmentation": ["soft_target", "attention_transfer", "pairwise", "channel_wise", "cirkd"],
    "detection": ["class_logit", "box_regression", "attention_transfer", "fpn_imitation"],
}


@torch.no_grad()
def main() -> None:
    """Print the table."""
    print("Stored targets, float16: kB for a sample and view; GB for one view of the training set")
    for title, samples, size, classes, model_options in CASES:
        with torch.device("meta"):
            model = create_model(**model_options, classes=classes, channels=3).eval()
            outputs: Outputs = model(torch.zeros(1, 3, *size))
        channels, task = model.stage_channels, model.tasks[0]
        print(f"  {title} ({samples:,} samples, {size[0]}x{size[1]})")
        for name in SIZED[task]:
            path = create_path(name, student_channels=channels, teacher_channels=channels)
            numbers = sum(values[0].numel() for values in path.target(outputs).values())
            print(f"    {name:20} {numbers * 2 / 1e3:10,.1f} kB {numbers * 2 * samples / 1e9:10,.2f} GB")


if __name__ == "__main__":
    main()
