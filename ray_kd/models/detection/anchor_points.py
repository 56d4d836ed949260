"""The points at which a dense detector predicts, and the object that each point is to find."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def anchor_points(
    sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Centres (L, 2) as (x, y) in pixels, and strides (L,), of all points: level by level, row by row."""
    centres, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        centres.append((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
        steps.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(centres), torch.cat(steps)


def edge_distances(centres: Tensor, boxes: Tensor) -> Tensor:
    """Distances to the left, top, right and bottom edge (..., 4), of points (..., 2) in boxes (..., 4)."""
    return torch.cat([centres - boxes[..., :2], boxes[..., 2:] - centres], -1)


def boxes_around(centres: Tensor, distances: Tensor) -> Tensor:
    """The inverse: boxes (..., 4) whose edges are ``distances`` (..., 4) away from points (..., 2)."""
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)


def centre_sampling(
    centres: Tensor, strides: Tensor, limits: Tensor, boxes: Tensor, label: Tensor, radius: float
) -> Tensor:
    """Which object each point is to find (FCOS, Tian et al., ICCV 2019, arXiv 1904.01355, with the
    centre sampling of its journal form).

    A point is for an object if it lies inside the box, at most ``radius`` strides from its centre, and its
    largest distance to an edge lies within its level's limits. Of several objects it takes the smallest.

    Args:
        centres, strides: of the points, (L, 2) and (L,).
        limits: smallest (excluded) and largest distance to an edge that a point is for, (L, 2).
        boxes, label: (N, M, 4) and (N, M), -1 where there is no object.
        radius: in strides.

    Returns:
        (N, L): the object's number in its image, -1 for none.
    """
    if boxes.shape[1] == 0:
        return label.new_full((len(label), len(centres)), -1)
    distances = edge_distances(centres.unsqueeze(1), boxes.unsqueeze(1))  # (N, L, M, 4)
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    off = (centres.unsqueeze(1) - middle.unsqueeze(1)).abs().amax(-1)  # (N, L, M)
    farthest = distances.amax(-1)
    fits = (
        (distances.amin(-1) > 0)
        & (off < radius * strides.unsqueeze(1))
        & (farthest > limits[:, :1])
        & (farthest <= limits[:, 1:])
        & (label >= 0).unsqueeze(1)
    )
    size = (boxes[..., 2:] - boxes[..., :2]).prod(-1).unsqueeze(1).expand_as(fits)
    least, chosen = size.masked_fill(~fits, torch.inf).min(-1)
    return chosen.masked_fill(least.isinf(), -1)
