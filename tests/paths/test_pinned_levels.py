"""Paths between detectors' pyramids, against formulas written again with loops in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.paths.detection_numbers import (
    BATCH,
    HEAD,
    IMAGE,
    NARROW,
    SIZES,
    STUDENT,
    TEACHER,
    N,
    iou,
    losses,
    make,
    objects,
    places,
    softmax,
)
from tests.paths.test_pinned_features import convolve


def squared(level: int, image: int, row: int, column: int, student: list[np.ndarray]) -> float:
    difference = student[level][image, :, row, column] - TEACHER["levels"][level][image, :, row, column]
    return float(np.mean(difference**2))


def masked(chosen: list[set[tuple[int, int, int]]], student: list[np.ndarray]) -> list[float]:
    """Means over the chosen (image, row, column) of each level."""
    return [
        float(np.mean([squared(level, *place, student) for place in sorted(places)]))
        for level, places in enumerate(chosen)
    ]


def test_fpn_imitation_with_and_without_adapter() -> None:
    wanted = [np.mean((s - t) ** 2) for s, t in zip(STUDENT["levels"], TEACHER["levels"], strict=True)]
    path = make("fpn_imitation")
    assert path.keys == ("fpn_imitation/stage0", "fpn_imitation/stage1")
    assert not list(path.parameters())
    assert losses(path) == pytest.approx(wanted)
    path = make("fpn_imitation", NARROW)
    adapters: Any = path.adapters
    wanted = []
    for stage, (s, t) in enumerate(zip(NARROW["levels"], TEACHER["levels"], strict=True)):
        weight, bias = (values.detach().numpy() for values in adapters[str(stage)].parameters())
        wanted.append(np.mean((convolve(s, weight) + bias[None, :, None, None] - t) ** 2))
    assert losses(path, NARROW) == pytest.approx(wanted)


def test_box_mask() -> None:
    chosen: list[set[tuple[int, int, int]]] = [set(), set()]
    for image in range(N):
        for box in objects(image):
            for level, row, column, x, y in places():
                if box[0] < x < box[2] and box[1] < y < box[3]:
                    chosen[level].add((image, row, column))
    assert losses(make("box_mask")) == pytest.approx(masked(chosen, STUDENT["levels"]))


def test_fgfi() -> None:
    """Half of the largest IoU that any prior of any level has with the object."""
    priors = HEAD.priors.tolist()
    chosen: list[set[tuple[int, int, int]]] = [set(), set()]
    for image in range(N):
        for box in objects(image):
            overlap = [iou(prior, box) for prior in priors]
            for (level, row, column, *_), value in zip(places(), overlap, strict=True):
                if value > 0.5 * max(overlap):
                    chosen[level].add((image, row, column))
    assert all(chosen)
    assert losses(make("fgfi")) == pytest.approx(masked(chosen, STUDENT["levels"]), rel=1e-6)


def fgd_level(s: np.ndarray, t: np.ndarray, image: int, temperature: float) -> np.ndarray:
    """Sums of the foreground, the background and the attention term, and of squares of the whole level."""
    _, height, width = s.shape
    maps = [
        height * width * softmax(np.abs(f).mean(axis=0).ravel() / temperature).reshape(height, width)
        for f in (s, t)
    ]
    channels = [len(f) * softmax(np.abs(f).mean(axis=(1, 2)) / temperature) for f in (s, t)]
    mask = np.zeros((height, width))
    for box in objects(image):
        x1, y1, x2, y2 = (
            value * cells / pixels
            for value, cells, pixels in zip(box, (width, height) * 2, (IMAGE[1], IMAGE[0]) * 2, strict=True)
        )
        left, top, right, bottom = np.floor(x1), np.floor(y1), np.ceil(x2), np.ceil(y2)
        for row in range(height):
            for column in range(width):
                if left <= column <= right and top <= row <= bottom:
                    share = 1 / ((right - left + 1) * (bottom - top + 1))
                    mask[row, column] = max(mask[row, column], share)
    background = (mask == 0).astype(float)
    background /= max(1, background.sum())
    error = (s - t) ** 2 * channels[1][:, None, None] * maps[1][None]
    apart = np.abs(maps[0] - maps[1]).sum() + np.abs(channels[0] - channels[1]).sum()
    return np.array([(error * mask).sum(), (error * background).sum(), apart, ((s - t) ** 2).sum()])


@pytest.mark.parametrize(
    ("preset", "strengths", "temperature"),
    [("retinanet", (1e-3, 5e-4, 5e-4, 5e-6), 0.5), ("fcos", (1.6e-3, 8e-4, 8e-4, 8e-6), 0.8)],
)
def test_fgd(preset: str, strengths: tuple[float, ...], temperature: float) -> None:
    """Before training the context added to both sides is 0."""
    wanted = []
    for s, t in zip(STUDENT["levels"], TEACHER["levels"], strict=True):
        terms = sum(fgd_level(s[i], t[i], i, temperature) for i in range(N))
        wanted.append(float(np.dot(terms, strengths)) / N)
    assert losses(make("fgd", preset=preset)) == pytest.approx(wanted)
    alone = make("fgd", alpha=0, beta=0, gamma=2)
    assert losses(alone) == pytest.approx(
        [
            sum(np.dot(fgd_level(s[i], t[i], i, 0.5), (0, 0, 2, 5e-6)) for i in range(N)) / N
            for s, t in zip(STUDENT["levels"], TEACHER["levels"], strict=True)
        ]
    )


def test_fgd_relation_once_it_has_learnt() -> None:
    path = make("fgd", alpha=0, beta=0, gamma=0, relation=1, stages=(1,))
    relations: Any = path.relations
    whole = []
    for block, side in zip(relations["1"], (STUDENT, TEACHER), strict=True):
        torch.nn.init.normal_(block.transform[3].weight, generator=torch.Generator().manual_seed(0))
        weight, bias = (values.detach().numpy().ravel() for values in block.attention.parameters())
        first, _, _, last = block.transform
        (w1, b1), (w2, b2) = (
            [values.detach().numpy().reshape(len(values), -1) for values in layer.parameters()]
            for layer in (first, last)
        )
        added = []
        for feature in side["levels"][1]:
            share = softmax(np.einsum("c,chw->hw", weight, feature) + bias[0])
            context = np.einsum("chw,hw->c", feature, share)
            hidden = w1 @ context + b1[:, 0]
            hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5)
            added.append(feature + (w2 @ np.maximum(hidden, 0) + b2[:, 0])[:, None, None])
        whole.append(np.stack(added))
    assert losses(path) == pytest.approx([np.sum((whole[0] - whole[1]) ** 2) / N])


def test_mgd_masks_as_many_positions_as_it_says_and_others_in_the_next_epoch() -> None:
    path: Any = make("mgd")
    sample = torch.arange(500)
    kept = path.kept(sample, 0, SIZES[0])
    assert kept.shape == (500, 1, *SIZES[0])
    assert float(kept.double().mean()) == pytest.approx(0.35, abs=0.01)
    assert torch.equal(kept[[3, 7]], path.kept(sample[[3, 7]], 0, SIZES[0])), "a mask follows its sample"
    path.begin_epoch(1)
    assert not torch.equal(kept, path.kept(sample, 0, SIZES[0]))
    path.begin_epoch(0)
    assert torch.equal(kept, path.kept(sample, 0, SIZES[0]))


def test_mgd() -> None:
    path: Any = make("mgd", stages=(1,))
    kept = path.kept(BATCH["sample"], 1, SIZES[1]).numpy()
    (w1, b1), (w2, b2) = (
        [values.detach().numpy() for values in path.generators["1"][index].parameters()] for index in (0, 2)
    )
    hidden = np.maximum(convolve(STUDENT["levels"][1] * kept, w1) + b1[None, :, None, None], 0)
    made = convolve(hidden, w2) + b2[None, :, None, None]
    assert losses(path) == pytest.approx([np.sum((made - TEACHER["levels"][1]) ** 2) / N])


def test_pkd_is_one_minus_correlation() -> None:
    wanted = []
    for s, t in zip(STUDENT["levels"], TEACHER["levels"], strict=True):
        values = []
        for one, other in zip(s.transpose(1, 0, 2, 3), t.transpose(1, 0, 2, 3), strict=True):
            a, b = ((f - f.mean()) / (f.std(ddof=1) + 1e-6) for f in (one, other))
            values.append(np.mean((a - b) ** 2) / 2)
            correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
            share = (one.size - 1) / one.size
            assert values[-1] == pytest.approx((1 - correlation) * share, rel=1e-4)
        wanted.append(float(np.mean(values)))
    assert losses(make("pkd")) == pytest.approx(wanted)


def test_gradient_of_pkd_goes_through_mean_and_deviation() -> None:
    path = make("pkd", stages=(1,))
    teacher = torch.tensor(TEACHER["levels"][1])

    def plain(feature: torch.Tensor) -> torch.Tensor:
        one, other = (
            (f - f.mean((0, 2, 3), keepdim=True)) / (f.std((0, 2, 3), keepdim=True) + 1e-6)
            for f in (feature, teacher)
        )
        return (one - other).square().mean() / 2

    gradients = []
    for loss in (plain, lambda feature: path.stage_loss(feature, teacher, 1)):  # type: ignore[operator]
        feature = torch.tensor(STUDENT["levels"][1], requires_grad=True)
        gradients += torch.autograd.grad(loss(feature), feature)
    torch.testing.assert_close(*gradients)
