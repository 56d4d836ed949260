"""How fast image files are read, viewed and trained on, by how many processes read ahead.

    python benchmarks/loading.py                          # 2,000 JPEGs of 256 x 256, loaders 0, 1, 2
    python benchmarks/loading.py --images 200 --seconds 2

Writes an image folder of noise and shapes (a JPEG of noise alone would take longer to decode than a
photograph), and measures what ``ray-kd doctor --data`` measures, for a torchvision ResNet-18 on views as
ImageNet's are trained on: random resized crop to 224 x 224, flip, colour jitter.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ray_kd.config.spec import RunSpec
from ray_kd.training.run_context import local_context
from ray_kd.training.speed import measure

CLASSES = 10


def write_images(root: Path, count: int, size: int = 256) -> int:
    """An image folder with ``count`` images in train and a tenth of it in val; mean bytes of a file."""
    random = np.random.default_rng(0)
    written = 0
    for index in range(count + count // 10):
        split = "train" if index < count else "val"
        file = root / split / f"class{index % CLASSES}" / f"{index}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = random.normal(0, 12, (size, size, 3)) + random.uniform(40, 215, 3)
        image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for shape in range(6):
            x, y, width, height = random.integers(8, size // 2, 4).tolist()
            colour = tuple(random.integers(0, 256, 3).tolist())
            (draw.ellipse if shape % 2 else draw.rectangle)((x, y, x + width, y + height), fill=colour)
        image.save(file, quality=90)
        written += file.stat().st_size
    return written // (count + count // 10)


def make_spec(root: Path, loaders: int, batch: int) -> RunSpec:
    """A run of one worker on these images."""
    return RunSpec.parse(
        {
            "name": "loading",
            "dataset": {"name": "image_folder", "root": str(root), "size": 224},
            "views": {"name": "photo", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
            "student": {"name": "torchvision", "arch": "resnet18"},
            "paths": [],
            "training": {"epochs": 1, "batch_size": batch},
            "resources": {"loaders": loaders},
            "storage": str(root / "results"),
        }
    )


def main() -> None:
    """Print a row for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each of the two measurements")
    parser.add_argument("--loaders", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mean = write_images(Path(folder), arguments.images)
        print(
            f"torch {torch.__version__}, {arguments.images} JPEGs, {mean / 1000:.0f} kB each", file=sys.stderr
        )
        print("| loaders | loader alone, images/s | model alone, images/s | together at most | what waits |")
        print("|---|---|---|---|---|")
        for loaders in arguments.loaders:
            spec = make_spec(Path(folder), loaders, arguments.batch)
            speed = measure(spec, local_context(spec), arguments.seconds)
            row = f"{speed.loader:,.0f} | {speed.model:,.0f} | {speed.together:,.0f} | {speed.waits}"
            print(f"| {loaders} | {row} |", flush=True)


if __name__ == "__main__":
    main()
