"""The six paths of Adaptive Distillation, against formulas written again with loops in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ray_kd import Outputs, create_path
from ray_kd.config.errors import UserError
from ray_kd.config.registry import PATHS
from ray_kd.paths.logit import LogitPath
from tests.paths.numbers import K, N, draw, losses, make, softmax

STUDENT, TEACHER = draw(1, (3, 5)), draw(2, (3, 5))


def test_soft_target() -> None:
    total = 0.0
    for z_s, z_t in zip(STUDENT["logits"], TEACHER["logits"], strict=True):
        p, q = softmax(z_t / 4), softmax(z_s / 4)
        total += sum(p[k] * (np.log(p[k]) - np.log(q[k])) for k in range(K))
    assert losses(make("soft_target", STUDENT, TEACHER), STUDENT, TEACHER) == [pytest.approx(16 * total / N)]


@pytest.mark.parametrize("name", [name for name in PATHS.names() if issubclass(PATHS.get(name), LogitPath)])
def test_every_logit_path_can_standardise(name: str) -> None:
    """It is the loss of logits that were standardised before, and blind to each sample's shift and scale."""
    batch = {"label": torch.tensor([0, 2, 1, 3])}
    draw = np.random.default_rng(4)
    student, teacher = draw.normal(size=(2, 4, 5)) * 3
    z = [(v - v.mean(1, keepdims=True)) / v.std(1, ddof=1, keepdims=True) for v in (student, teacher)]

    def loss(s: np.ndarray, t: np.ndarray, **options: Any) -> float:
        path = create_path(name, student_channels=(3,), teacher_channels=(3,), **options)
        target = path.target(Outputs(logits=torch.from_numpy(t)))
        return float(path(Outputs(logits=torch.from_numpy(s)), target, batch)[name])

    wanted = loss(*z)
    assert loss(student, teacher, standardise=True) == pytest.approx(wanted, rel=1e-5)
    assert loss(7 * student + 2, teacher - 1, standardise=True) == pytest.approx(wanted, rel=1e-5)
    assert loss(student, teacher) != pytest.approx(wanted, rel=1e-2)


def test_soft_target_standardised() -> None:
    total = 0.0
    for z_s, z_t in zip(STUDENT["logits"], TEACHER["logits"], strict=True):
        p, q = (softmax((z - z.mean()) / (z.std(ddof=1) + 1e-7) / 2) for z in (z_t, z_s))
        total += sum(p[k] * np.log(p[k] / q[k]) for k in range(K))
    path = make("soft_target", STUDENT, TEACHER, standardise=True, temperature=2)
    assert losses(path, STUDENT, TEACHER) == [pytest.approx(4 * total / N)]


def test_logits() -> None:
    wanted = np.mean((STUDENT["logits"] - TEACHER["logits"]) ** 2)
    assert losses(make("logits", STUDENT, TEACHER), STUDENT, TEACHER) == [pytest.approx(wanted)]


@pytest.mark.parametrize("power", [2, 1.5])
def test_attention_transfer(power: float) -> None:
    wanted = []
    for f_s, f_t in zip(STUDENT["features"], TEACHER["features"], strict=True):
        maps = []
        for feature in (f_s, f_t):
            energy = (np.abs(feature) ** power).sum(axis=1).reshape(N, -1)
            maps.append(energy / (np.sqrt((energy**2).sum(axis=1, keepdims=True)) + 1e-6))
        wanted.append(pytest.approx(np.mean((maps[0] - maps[1]) ** 2)))
    path = make("attention_transfer", STUDENT, TEACHER, power=power)
    assert losses(path, STUDENT, TEACHER) == wanted


@pytest.mark.parametrize(("channels", "size"), [(3, 4), (5, 2), (7, 2), (11, 2)])
def test_nst_for_every_shape_of_target(channels: int, size: int) -> None:
    """Half a Gramian; features with C > HW; with C <= 2 HW; and with C > 2 HW: one definition."""
    student, teacher = (draw(seed, (channels,), (size,)) for seed in (3, 4))
    total = 0.0
    for f_s, f_t in zip(student["features"][0], teacher["features"][0], strict=True):
        gramians = []
        for feature in (f_s, f_t):
            rows = feature.reshape(channels, -1)
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            gramians.append(rows @ rows.T)
        total += ((gramians[0] - gramians[1]) ** 2).sum()
    path = make("nst", student, teacher, adapter=None)
    assert losses(path, student, teacher) == [pytest.approx(total / (N * channels**2))]


def test_nst_adapter_is_a_normalised_linear_map() -> None:
    student, teacher = draw(5, (3,), (4,)), draw(6, (4,), (4,))
    path = make("nst", student, teacher)
    weight = next(p for p in path.parameters() if p.dim() == 4).detach().numpy()[:, :, 0, 0]
    mapped = np.einsum("oc,nchw->nohw", weight, student["features"][0])
    mean, var = mapped.mean(axis=(0, 2, 3), keepdims=True), mapped.var(axis=(0, 2, 3), keepdims=True)
    adapted = {"features": [(mapped - mean) / np.sqrt(var + 1e-5)], "logits": None}
    plain = {"features": adapted["features"], "logits": student["logits"]}
    wanted = losses(make("nst", plain, teacher, adapter=None), plain, teacher)
    assert losses(path, student, teacher) == pytest.approx(wanted)


def test_distillation_token() -> None:
    """The class token's head is left alone; the other learns the teacher's class, or its probabilities."""
    head = np.random.default_rng(5).normal(size=(N, K))
    student = Outputs(logits=torch.zeros(N, K), extra={"distillation": torch.tensor(head)})
    teacher = Outputs(logits=torch.tensor(TEACHER["logits"]))
    hard = soft = 0.0
    for z_d, z_t in zip(head, TEACHER["logits"], strict=True):
        hard -= np.log(softmax(z_d)[np.argmax(z_t)])
        p, q = softmax(z_t / 3), softmax(z_d / 3)
        soft += 9 * sum(p[k] * np.log(p[k] / q[k]) for k in range(K))
    for labels, wanted in (("hard", hard / N), ("soft", soft / N)):
        path = create_path("distillation_token", student_channels=(), teacher_channels=(), labels=labels)
        assert float(path(student, path.target(teacher))["distillation_token"]) == pytest.approx(wanted)
    with pytest.raises(UserError, match="deit_tiny_distilled_patch16_224"):
        path(teacher, path.target(teacher))


def test_softmax_regression_is_for_the_teachers_last_stage_however_many_it_has() -> None:
    model = torch.nn.Module()
    model.head = torch.nn.Linear(5, K).double()
    path = make("softmax_regression", draw(1, (3,), (4,)), TEACHER, model)
    assert [name for name, _ in path.named_parameters() if name.startswith("adapters.0")]
    assert losses(path, draw(1, (3,), (4,)), TEACHER)[0] > 0
