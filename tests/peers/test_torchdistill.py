"""Every path that torchdistill has too, beside it: the same loss and gradient, or the difference named.

The differences, and who is right, stand in docs/weights.md; the tests below hold what it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchdistill.losses import mid_level

from ray_kd.paths import create_path
from ray_kd.paths.review import context_loss
from ray_kd.testing.scenes import Scene

SEEDS = [0, 1, 2]
LOGITS = {"student_module_path": "s", "student_module_io": "output"} | {
    "teacher_module_path": "t",
    "teacher_module_io": "output",
}
OUTPUTS = {"student_output_path": "s", "teacher_output_path": "t"}
PAIR = {"student": {"path": "s", "io": "output"}, "teacher": {"path": "t", "io": "output"}}


def asked(loss: Any, student: Any, teacher: Tensor, targets: Tensor | None = None) -> Tensor:
    """A loss of torchdistill on one output of each side."""
    found: Tensor = loss({"s": {"output": student}}, {"t": {"output": teacher}}, targets)
    return found


def last_pooled(scene: Scene) -> tuple[Tensor, Tensor]:
    return scene.student.features[-1].mean((2, 3)), scene.teacher.features[-1].mean((2, 3))


def logits(scene: Scene) -> tuple[Tensor, Tensor]:
    assert scene.student.logits is not None
    assert scene.teacher.logits is not None
    return scene.student.logits, scene.teacher.logits


def soft(loss: Any, scene: Scene) -> Tensor:
    """T^2 KL alone: torchdistill has the factor only beside cross-entropy, which is taken off again."""
    student, teacher = logits(scene)
    label = scene.batch["label"]
    return asked(loss, student, teacher, label) - F.cross_entropy(student, label)


def kd(path: Any, scene: Scene) -> Tensor:
    return soft(mid_level.KDLoss(**LOGITS, temperature=4, alpha=1, beta=1), scene)


def standardised(path: Any, scene: Scene) -> Tensor:
    return soft(mid_level.LogitStdKDLoss(**LOGITS, temperature=2, alpha=1, beta=1), scene)


def dist(path: Any, scene: Scene) -> Tensor:
    return asked(mid_level.DISTLoss(**LOGITS, tau=2.0), *logits(scene))


def attention(path: Any, scene: Scene) -> Tensor:
    loss = mid_level.ATLoss({"pair": PAIR})
    pairs = zip(scene.student.features, scene.teacher.features, strict=True)
    return torch.stack([asked(loss, s, t) for s, t in pairs]).sum()


def pkt(path: Any, scene: Scene) -> Tensor:
    return asked(mid_level.PKTLoss(**LOGITS), *last_pooled(scene))


def rkd(path: Any, scene: Scene) -> Tensor:
    return asked(mid_level.RKDLoss("s", "t", 25, 50, "mean"), *last_pooled(scene))


def vid(path: Any, scene: Scene) -> Tensor:
    total = torch.zeros((), dtype=scene.dtype)
    for stage in path.stages:
        mean = path.adapt(scene.student.features[stage], stage)
        variance = (F.softplus(path.scales[str(stage)]) + 1e-5).view(1, -1, 1, 1)
        total = total + asked(
            mid_level.VIDLoss({"pair": PAIR}), (mean, variance), scene.teacher.features[stage]
        )
    return total


def similarity(path: Any, scene: Scene) -> Tensor:
    """torchdistill divides each row by the sum of its sizes (p = 1 of `normalize`), the paper by its norm."""
    loss = mid_level.SPKDLoss(**OUTPUTS, reduction="batchmean")
    loss.matmul_and_normalize = lambda z: F.normalize(z.flatten(1) @ z.flatten(1).T, dim=1)
    return asked(loss, scene.student.features[-1], scene.teacher.features[-1])


def correlation(path: Any, scene: Scene) -> Tensor:
    """torchdistill takes the norm of the difference, over N^2; the paper its square over N^2."""
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    loss = mid_level.CCKDLoss("s", "t", kernel, "batchmean")
    n = scene.count
    sides = (F.normalize(e, dim=1) for e in last_pooled(scene))
    return (asked(loss, *sides) * n**2).square() / n**2


def crd(path: Any, scene: Scene) -> Tensor:
    """With our memory, our constant Z, and each anchor's negatives all of the other classes' samples."""
    (contrast,) = path.contrasts.values()
    n, m = scene.count, path.options.negatives
    row = scene.batch["sample"] % len(contrast.sample)
    loss = mid_level.CRDLoss("s", "extra", "t", contrast.student.shape[1], n, m, n, eps=0.0).double()
    loss.memory_v1.copy_(contrast.student[row])
    loss.memory_v2.copy_(contrast.teacher[row])
    loss.params = loss.params.double()
    loss.params[2:4] = n * math.exp(contrast.shift) / m
    label = scene.batch["label"]
    others = torch.stack([(label != own).nonzero().flatten() for own in label])
    drawn = torch.cat([torch.arange(n).unsqueeze(1), others], dim=1)
    ours, theirs = last_pooled(scene)
    student = F.normalize(contrast.embed_student(ours), dim=1)
    teacher = F.normalize(contrast.embed_teacher(theirs), dim=1)
    extra = {"pos_idx": torch.arange(n), "contrast_idx": drawn}
    found = loss({"s": {"output": student}, "extra": {"input": extra}}, {"t": {"output": teacher}})
    return found.squeeze()


Peer = Callable[[Any, Scene], Tensor]
PEERS: dict[str, tuple[str, dict[str, Any], Peer]] = {
    "KDLoss": ("soft_target", {}, kd),
    "LogitStdKDLoss": ("soft_target", {"standardise": True, "temperature": 2}, standardised),
    "DISTLoss": ("dist", {"temperature": 2}, dist),
    "ATLoss": ("attention_transfer", {}, attention),
    "PKTLoss": ("pkt", {}, pkt),
    "RKDLoss": ("rkd", {}, rkd),
    "VIDLoss": ("vid", {}, vid),
    "SPKDLoss": ("similarity", {}, similarity),
    "CCKDLoss": ("correlation", {}, correlation),
    "CRDLoss": ("crd", {"negatives": 6, "bank": 64}, crd),
}


NOT_OURS = {
    "AffinityLoss",
    "AltActTransferLoss",
    "AuxSSKDLoss",
    "ChSimLoss",
    "DISTPlusLoss",
    "DictLossWrapper",
    "FSPLoss",
    "FTLoss",
    "KTALoss",
    "PADL2Loss",
    "RegularizationLoss",
    "SKDDirectionLoss",
    "SKDInstanceLoss",
    "SRDLoss",
    "SSKDLoss",
    "SimpleLossWrapper",
}
"""Methods that no path of this project is, and wrappers."""


def test_every_loss_of_torchdistill_has_a_peer_or_is_not_ours() -> None:
    there = {name for name in vars(mid_level) if name.endswith(("Loss", "Wrapper"))}
    there = {name for name in there if getattr(mid_level, name).__module__ == mid_level.__name__}
    assert there == {*PEERS, "HierarchicalContextLoss"} | NOT_OURS


def scene_and_path(name: str, options: dict[str, Any], seed: int) -> tuple[Scene, Any]:
    scene = Scene(seed, dtype=torch.float64)
    scene.batch["label"] = torch.arange(scene.count) % 4  # as many samples of each class
    widths = {"student_channels": scene.student_channels, "teacher_channels": scene.teacher_channels}
    path: Any = create_path(name, **widths, **options).double()
    path.bind(scene.teacher_model)
    return scene, path


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("peer", PEERS)
def test_loss_and_gradients_are_torchdistills(peer: str, seed: int) -> None:
    name, options, theirs = PEERS[peer]
    scene, path = scene_and_path(name, options, seed)
    target = path.target(scene.teacher)
    if "stateful" in path.traits:
        path(scene.student, target, scene.batch)
        path.recording = False
    inputs = [*scene.student.features, scene.student.logits, *path.parameters()]
    inputs = [values for values in inputs if values is not None and values.requires_grad]
    ours = torch.stack(list(path(scene.student, target, scene.batch).values())).sum()
    other = theirs(path, scene)
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-9)
    gradients, wanted = (torch.autograd.grad(loss, inputs, allow_unused=True) for loss in (ours, other))
    assert any(gradient is not None for gradient in gradients)
    for gradient, same in zip(gradients, wanted, strict=True):
        assert (gradient is None) == (same is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, same, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("side", [8, 5, 4, 3, 2])
def test_reviews_context_loss_is_torchdistills(side: int) -> None:
    torch.manual_seed(0)
    found = torch.rand(3, 4, side, side, dtype=torch.float64, requires_grad=True)
    wanted = torch.rand(3, 4, side, side, dtype=torch.float64)
    theirs = asked(mid_level.HierarchicalContextLoss(**LOGITS), (found, None), wanted)
    ours = context_loss(found, wanted)
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(loss, found)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_kd_without_cross_entropy_lacks_the_square_of_the_temperature_there() -> None:
    """Hinton et al. multiply by T^2 so that the gradient's size does not depend on T: ours does."""
    scene, path = scene_and_path("soft_target", {"temperature": 4}, 0)
    ours = path(scene.student, path.target(scene.teacher))["soft_target"]
    theirs = asked(mid_level.KDLoss(**LOGITS, temperature=4, alpha=0), *logits(scene))
    torch.testing.assert_close(ours, 16 * theirs)


def test_similarity_differs_by_its_norm_and_correlation_by_its_square() -> None:
    """As torchdistill computes them; corrected as their peers above they are equal."""
    scene, path = scene_and_path("similarity", {}, 0)
    ours = path(scene.student, path.target(scene.teacher))["similarity/stage3"]
    loss = mid_level.SPKDLoss(**OUTPUTS, reduction="batchmean")
    theirs = asked(loss, scene.student.features[-1], scene.teacher.features[-1])
    maps = (f.flatten(1) for f in (scene.student.features[-1], scene.teacher.features[-1]))
    g_s, g_t = (F.normalize(z @ z.T, p=1, dim=1) for z in maps)
    torch.testing.assert_close(theirs, (g_s - g_t).square().mean())
    assert ours.item() != pytest.approx(theirs.item(), rel=0.1)
    scene, path = scene_and_path("correlation", {}, 0)
    ours = path(scene.student, path.target(scene.teacher))["correlation/stage3"]
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    sides = (F.normalize(e, dim=1) for e in last_pooled(scene))
    theirs = asked(mid_level.CCKDLoss("s", "t", kernel, "batchmean"), *sides)
    torch.testing.assert_close(theirs, ours.sqrt() / scene.count)
