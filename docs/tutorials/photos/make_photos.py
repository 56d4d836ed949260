"""Write a folder of images, one folder for each class, from what scikit-learn brings along.

Each image is one of its 1,797 handwritten digits, in a colour, over a piece of one of its two photographs.

    python make_photos.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

SIDE = 32


def main(folder: Path) -> None:
    """Write ``folder/<digit>/<number>.jpg``."""
    draw = np.random.default_rng(0)
    photographs = load_sample_images().images
    digits = load_digits()
    for number, (ink, digit) in enumerate(zip(digits.images / 16, digits.target, strict=True)):
        photograph = photographs[number % 2]
        top, left = (draw.integers(side - SIDE) for side in photograph.shape[:2])
        ground = photograph[top : top + SIDE, left : left + SIDE] / 255
        size = draw.integers(22, SIDE)
        grown = Image.fromarray((ink * 255).astype("uint8")).resize((size, size), Image.Resampling.BILINEAR)
        share = np.zeros((SIDE, SIDE, 1))
        y, x = draw.integers(SIDE - size, size=2)
        share[y : y + size, x : x + size, 0] = np.asarray(grown) / 255
        colour = (ground.mean((0, 1)) + draw.uniform(0.4, 0.6, 3)) % 1
        pixels = ground * (1 - share) + colour * share
        place = folder / str(digit)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255).astype("uint8")).save(place / f"{number:04}.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
