"""Paths of segmentation, against their published formulas written again with loops in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ray_kd import Outputs, create_path
from ray_kd.outputs import IGNORE
from ray_kd.paths import Path
from ray_kd.paths.dense import class_map
from tests.paths.numbers import softmax

N, K, H, W = 3, 4, 4, 6
RNG = np.random.default_rng(7)
FEATURE = {"student": np.maximum(RNG.normal(size=(N, 3, H, W)), 0), "teacher": RNG.normal(size=(N, 5, H, W))}
LOGITS = {"student": 2 * RNG.normal(size=(N, K, H, W)), "teacher": 2 * RNG.normal(size=(N, K, H, W))}
MASK = RNG.integers(0, K, size=(N, H, W))
MASK[RNG.random(MASK.shape) < 0.2] = IGNORE
MASK[1] = IGNORE
VALID = MASK != IGNORE


def make(name: str, **options: Any) -> Path:
    return create_path(name, student_channels=(3,), teacher_channels=(5,), **options).double()


def losses(path: Path, mask: np.ndarray | None = MASK) -> list[float]:
    sides = {
        side: Outputs((torch.tensor(FEATURE[side]),), torch.tensor(LOGITS[side]))
        for side in ("student", "teacher")
    }
    batch = {"sample": torch.tensor([5, 2, 9])}
    if mask is not None:
        batch["mask"] = torch.tensor(mask)
    found = path(sides["student"], path.target(sides["teacher"]), batch)
    return [float(value.detach()) for value in found.values()]


def divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """KL between the softmaxes of two vectors."""
    p, q = softmax(teacher), softmax(student)
    return float(np.sum(p * (np.log(p) - np.log(q))))


def pixels(keep: np.ndarray = VALID) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Class, student's and teacher's logits of each kept pixel."""
    return [
        (MASK[n, i, j], LOGITS["student"][n, :, i, j], LOGITS["teacher"][n, :, i, j])
        for n, i, j in zip(*np.nonzero(keep), strict=True)
    ]


def test_soft_target_is_a_mean_over_labelled_pixels() -> None:
    wanted = 4 * np.mean([divergence(t / 2, s / 2) for _, s, t in pixels()])
    assert losses(make("soft_target", temperature=2)) == [pytest.approx(wanted)]
    everywhere = np.mean([divergence(t, s) for _, s, t in pixels(np.ones_like(VALID))])
    assert losses(make("soft_target", temperature=1), None) == [pytest.approx(everywhere)]
    assert losses(make("soft_target"), np.full_like(MASK, IGNORE)) == [0]


def test_soft_target_at_the_teachers_resolution() -> None:
    """A student of half the resolution is resized; a mask of three times the teacher's is read at centres."""
    small = torch.tensor(RNG.normal(size=(N, K, H // 2, W // 2)))
    large = torch.tensor(MASK).repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.equal(class_map(large, (H, W)), torch.tensor(MASK))
    path, teacher = make("soft_target", temperature=1), Outputs(logits=torch.tensor(LOGITS["teacher"]))
    found = path(Outputs(logits=small), path.target(teacher), {"mask": large})["soft_target"]
    student = F.interpolate(small, (H, W), mode="bilinear").numpy()
    spots = list(zip(*np.nonzero(VALID), strict=True))
    wanted = [divergence(LOGITS["teacher"][n, :, i, j], student[n, :, i, j]) for n, i, j in spots]
    assert float(found) == pytest.approx(np.mean(wanted))


def test_logits() -> None:
    wanted = np.mean([(s - t) ** 2 for _, s, t in pixels()])
    assert losses(make("logits")) == [pytest.approx(wanted)]


def test_dkd() -> None:
    total = 0.0
    for k, s, t in pixels():
        p, q = softmax(t / 4), softmax(s / 4)
        total += p[k] * np.log(p[k] / q[k]) + (1 - p[k]) * np.log((1 - p[k]) / (1 - q[k]))
        total += 8 * divergence(np.delete(t, k) / 4, np.delete(s, k) / 4)
    assert losses(make("dkd")) == [pytest.approx(16 * total / VALID.sum())]


def test_dist() -> None:
    ours, theirs = (np.array([softmax(row[side]) for row in pixels()]) for side in (1, 2))
    rows = [np.corrcoef(p, q)[0, 1] for p, q in zip(ours, theirs, strict=True)]
    columns = [np.corrcoef(p, q)[0, 1] for p, q in zip(ours.T, theirs.T, strict=True)]
    assert losses(make("dist")) == [pytest.approx(2 - np.mean(rows) - np.mean(columns))]


def test_channel_wise_on_logits() -> None:
    total = 0.0
    for n in (0, 2):  # image 1 has no labelled pixel
        for k in range(K):
            total += divergence(*(LOGITS[side][n, k][VALID[n]] / 4 for side in ("teacher", "student")))
    assert losses(make("channel_wise")) == [pytest.approx(16 * total / (2 * K))]
    whole = [
        divergence(*(LOGITS[side][n, k].ravel() / 4 for side in ("teacher", "student")))
        for n in range(N)
        for k in range(K)
    ]
    assert losses(make("channel_wise"), None) == [pytest.approx(16 * np.mean(whole))]


def test_channel_wise_on_features() -> None:
    path = make("channel_wise", on="features", temperature=2)
    weight = path.adapters["0"].weight.detach().numpy()[:, :, 0, 0]  # type: ignore[index, union-attr, operator]
    ours = np.einsum("oc,nchw->nohw", weight, FEATURE["student"])
    each = [
        divergence(FEATURE["teacher"][n, c].ravel() / 2, ours[n, c].ravel() / 2)
        for n in range(N)
        for c in range(5)
    ]
    assert losses(path) == [pytest.approx(4 * np.mean(each))]
    assert (path.published_weight, make("channel_wise").published_weight) == (50, 3)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows over their length."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))


def pooled(maps: np.ndarray, pool: int, how: Any) -> np.ndarray:
    """Maps (N, C, H, W) over windows of pool x pool, as rows (N, P, C)."""
    n, c, h, w = maps.shape
    windows = how(maps.reshape(n, c, h // pool, pool, w // pool, pool), axis=(3, 5))
    return np.asarray(windows.reshape(n, c, -1).transpose(0, 2, 1))


@pytest.mark.parametrize("pool", [1, 2])
def test_pairwise(pool: int) -> None:
    """Also where the sum is computed without a matrix of positions (pool 1: 24 positions, 8 channels)."""
    total = 0.0
    ours, theirs = (unit(pooled(FEATURE[side], pool, np.max)) for side in ("student", "teacher"))
    for s, t in zip(ours, theirs, strict=True):
        total += np.mean((s @ s.T - t @ t.T) ** 2)
    assert losses(make("pairwise", pool=pool)) == [pytest.approx(total / N)]


def test_ifvd() -> None:
    errors = []
    for n in range(N):
        for i, j in zip(*np.nonzero(VALID[n]), strict=True):
            cosines = []
            for side in ("student", "teacher"):
                members = FEATURE[side][n][:, MASK[n] == MASK[n, i, j]]
                cosines.append(unit(FEATURE[side][n, :, i, j]) @ unit(members.mean(axis=1)))
            errors.append((cosines[0] - cosines[1]) ** 2)
    assert losses(make("ifvd")) == [pytest.approx(np.mean(errors))]


@pytest.mark.parametrize("pool", [1, 2])
def test_cirkd(pool: int) -> None:
    ours, theirs = (unit(pooled(FEATURE[side], pool, np.mean)) for side in ("student", "teacher"))
    each = [
        divergence(t_i[p] @ t_j.T / 0.1, s_i[p] @ s_j.T / 0.1)
        for s_i, t_i in zip(ours, theirs, strict=True)
        for s_j, t_j in zip(ours, theirs, strict=True)
        for p in range(ours.shape[1])
    ]
    assert losses(make("cirkd", pool=pool)) == [pytest.approx(np.mean(each))]


def test_the_gradient_of_cirkd_is_that_of_its_loss() -> None:
    path = create_path("cirkd", student_channels=(2,), teacher_channels=(3,)).double()
    draw = torch.Generator().manual_seed(0)
    feature, teacher = (torch.randn(2, c, 2, 3, generator=draw, dtype=torch.float64) for c in (2, 3))
    target = path.target(Outputs((teacher,)))

    def loss(values: torch.Tensor) -> torch.Tensor:
        return path(Outputs((values,)), target)["cirkd/stage0"]

    assert torch.autograd.gradcheck(loss, feature.requires_grad_())
    some = loss(feature), 3 * loss(feature)
    (batched,) = torch.autograd.grad(
        torch.stack(some), feature, torch.eye(2, dtype=torch.float64), is_grads_batched=True
    )
    torch.testing.assert_close(batched[1], 3 * batched[0])


def test_cirkd_memory() -> None:
    """The second batch is compared with what both left: regions' means and up to two pixels of each class."""
    path = make("cirkd_memory", per_class=2, region=0.5)
    losses(path)
    theirs = unit(FEATURE["teacher"].transpose(0, 2, 3, 1))
    pixel, region = [], []
    for n in range(N):
        for k in range(K):
            members = theirs[n][MASK[n] == k]
            if len(members):
                half = -(-len(members) // 2)  # the first, and the first of the second half
                pixel += [members[0], *([members[half]] if len(members) > 1 else [])]
                region.append(unit(members.mean(axis=0)))
    with torch.no_grad():
        mapped = path.adapt(torch.tensor(FEATURE["student"]), 0).numpy()  # type: ignore[operator]
    ours = unit(mapped.transpose(0, 2, 3, 1))
    wanted = sum(
        weight
        * np.mean(
            [divergence(m @ t / 0.1, m @ s / 0.1) for s, t in zip(ours[VALID], theirs[VALID], strict=True)]
        )
        for m, weight in ((np.array(pixel), 1.0), (np.array(region), 0.5))
    )
    assert losses(path) == [pytest.approx(wanted)]
