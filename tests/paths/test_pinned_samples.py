"""Paths between samples and between classes, against formulas written again with loops in NumPy."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from tests.paths.numbers import LABEL, SAMPLE, K, N, draw, losses, make, outputs, softmax

STUDENT, TEACHER = draw(1, (3, 5)), draw(2, (4, 7))


def embeddings() -> list[np.ndarray]:
    return [np.asarray(side["features"][-1].mean(axis=(2, 3))) for side in (STUDENT, TEACHER)]


def huber(x: np.ndarray) -> float:
    return float(np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5).mean())


def test_rkd() -> None:
    distances, angles = [], []
    for e in embeddings():
        d = np.array([[np.linalg.norm(a - b) for b in e] for a in e])
        distances.append(d / d[d > 0].mean())
        cosines = np.zeros((N, N, N))
        for i, j, k in product(range(N), repeat=3):
            one, two = e[i] - e[j], e[k] - e[j]
            if i != j and k != j:
                cosines[i, j, k] = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        angles.append(cosines)
    wanted = 25 * huber(distances[0] - distances[1]) + 50 * huber(angles[0] - angles[1])
    path = make("rkd", STUDENT, TEACHER)
    assert path.keys == ("rkd/stage1",)
    assert losses(path, STUDENT, TEACHER) == pytest.approx([wanted])


def test_similarity() -> None:
    rows = []
    for side in (STUDENT, TEACHER):
        flat = side["features"][-1].reshape(N, -1)
        gramian = flat @ flat.T
        rows.append(gramian / np.linalg.norm(gramian, axis=1, keepdims=True))
    wanted = ((rows[0] - rows[1]) ** 2).sum() / N**2
    assert losses(make("similarity", STUDENT, TEACHER), STUDENT, TEACHER) == pytest.approx([wanted])


@pytest.mark.parametrize("order", [2, 8])
def test_correlation(order: int) -> None:
    gamma, kernels = 0.4, []
    for e in embeddings():
        x = e / np.linalg.norm(e, axis=1, keepdims=True)
        series, term = np.ones((N, N)), np.ones((N, N))
        for p in range(1, order + 1):
            term = term * 2 * gamma * (x @ x.T) / p
            series = series + term
        kernels.append(np.exp(-2 * gamma) * series)
        if order == 8:  # the series is that of the Gaussian kernel
            gauss = [[np.exp(-gamma * np.sum((a - b) ** 2)) for b in x] for a in x]
            np.testing.assert_allclose(kernels[-1], gauss, rtol=1e-5)
    wanted = np.mean((kernels[0] - kernels[1]) ** 2)
    path = make("correlation", STUDENT, TEACHER, order=order)
    assert losses(path, STUDENT, TEACHER) == pytest.approx([wanted])


def test_pkt() -> None:
    rows = []
    for e in embeddings():
        cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in e] for a in e])
        rows.append((cosine + 1) / 2 / ((cosine + 1) / 2).sum(axis=1, keepdims=True))
    q, p = rows
    wanted = (p * np.log((p + 1e-7) / (q + 1e-7))).sum() / N**2
    assert losses(make("pkt", STUDENT, TEACHER), STUDENT, TEACHER) == pytest.approx([wanted], rel=1e-4)


def test_dkd() -> None:
    total = 0.0
    for z_s, z_t, label in zip(STUDENT["logits"], TEACHER["logits"], LABEL, strict=True):
        q, p = softmax(z_s / 4), softmax(z_t / 4)
        binary = [np.array([r[label], 1 - r[label]]) for r in (p, q)]
        others = [np.delete(r, label) / (1 - r[label]) for r in (p, q)]
        target_part, other_part = (float((a * np.log(a / b)).sum()) for a, b in (binary, others))
        total += 1 * target_part + 8 * other_part
    path = make("dkd", STUDENT, TEACHER)
    assert losses(path, STUDENT, TEACHER) == pytest.approx([16 * total / N])


def test_dkd_is_kd_where_its_weights_say_so() -> None:
    """KD = TCKD + (1 - p_y) NCKD: with one sample, beta = 1 - p_y gives soft targets."""
    one: list[dict[str, Any]] = [
        {"features": [f[:1] for f in side["features"]], "logits": side["logits"][:1]}
        for side in (STUDENT, TEACHER)
    ]
    beta = 1 - float(softmax(one[1]["logits"][0] / 4)[LABEL[0]])
    path, plain = make("dkd", *one, beta=beta), make("soft_target", *one)
    batch = {"label": torch.tensor(LABEL[:1])}
    target = path.target(outputs(one[1]))
    wanted = plain(outputs(one[0]), plain.target(outputs(one[1])), batch)["soft_target"]
    torch.testing.assert_close(path(outputs(one[0]), target, batch)["dkd"], wanted)


@pytest.mark.parametrize("temperature", [1, 4])
def test_dist(temperature: float) -> None:
    q, p = (softmax(side["logits"] / temperature) for side in (STUDENT, TEACHER))
    rows = np.mean([1 - np.corrcoef(q[i], p[i])[0, 1] for i in range(N)])
    columns = np.mean([1 - np.corrcoef(q[:, k], p[:, k])[0, 1] for k in range(K)])
    wanted = temperature**2 * (2 * rows + 3 * columns)
    path = make("dist", STUDENT, TEACHER, beta=2, gamma=3, temperature=temperature)
    assert losses(path, STUDENT, TEACHER) == pytest.approx([wanted])


def test_crd_over_three_steps() -> None:
    """Scores, negatives and a memory that follows; in the third step some are new, some of another class."""
    m, tau, momentum, d = 10, 0.5, 0.3, 8
    path: Any = make(
        "crd", STUDENT, TEACHER, dimensions=d, negatives=m, temperature=tau, momentum=momentum, bank=16
    )
    contrast = path.contrasts["1"]
    memory: dict[int, list[np.ndarray]] = {}
    labels: dict[int, int] = {}
    for step in range(3):
        sides, found = [draw(10 + step, (3, 5)), draw(20 + step, (4, 7))], []
        for side, linear in zip(sides, (contrast.embed_student, contrast.embed_teacher), strict=True):
            raw = side["features"][-1].mean(axis=(2, 3)) @ linear.weight.detach().numpy().T
            raw = raw + linear.bias.detach().numpy()
            found.append(raw / np.linalg.norm(raw, axis=1, keepdims=True))
        ids = [int(i) + (5 if step == 2 else 0) for i in SAMPLE]
        for row, i in enumerate(ids):
            memory.setdefault(i, [found[0][row], found[1][row]])
            labels[i] = int(LABEL[row])
        total = 0.0
        for row, i in enumerate(ids):
            for mine, other in ((0, 1), (1, 0)):
                anchor = found[mine][row]
                known = {j: np.exp(anchor @ memory[j][other] / tau - 1 / (2 * d * tau**2)) for j in memory}
                total -= np.log(known[i] / (known[i] + m))
                apart = [known[j] for j in memory if labels[j] != labels[i]]
                total -= m * np.mean([np.log(m / (value + m)) for value in apart])
        batch = {"label": torch.tensor(LABEL), "sample": torch.tensor(ids)}
        loss = path(outputs(sides[0]), path.target(outputs(sides[1])), batch)["crd/stage1"]
        assert float(loss.detach()) == pytest.approx(total / N, rel=1e-6)
        for row, i in enumerate(ids):
            moved = [momentum * memory[i][k] + (1 - momentum) * found[k][row] for k in (0, 1)]
            memory[i] = [vector / np.linalg.norm(vector) for vector in moved]


def test_crd_memory_is_bounded() -> None:
    path: Any = make("crd", STUDENT, TEACHER, bank=4)
    losses(path, STUDENT, TEACHER)
    contrast = path.contrasts["1"]
    assert contrast.student.shape == (4, 128)
    assert sorted(int(i) % 4 for i in contrast.sample) == [0, 1, 2, 3]
    assert set(contrast.sample.tolist()) <= set(SAMPLE.tolist())
