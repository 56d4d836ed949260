"""What each path's source computes, with the source's own reduction: written from its code's reductions.

Each gives the loss that the source's weight multiplies, summed over stages; what learns is the path's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_kd.outputs import IGNORE
from ray_kd.paths.fgd import attention, object_mask
from ray_kd.testing.scenes import Scene

Source = Callable[[Any, Scene], Tensor]


def stages(path: Any, scene: Scene) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The stage, the student's (adapted) feature map and the teacher's."""
    for stage in path.stages:
        yield stage, path.adapt(scene.student.features[stage], stage), scene.teacher.features[stage]


def over_stages(loss: Callable[[Tensor, Tensor], Tensor]) -> Source:
    return lambda path, scene: torch.stack([loss(s, t) for _, s, t in stages(path, scene)]).sum()


def last_pooled(loss: Callable[[Tensor, Tensor], Tensor]) -> Source:
    def found(path: Any, scene: Scene) -> Tensor:
        s, t = (side.features[-1].mean((2, 3)) for side in (scene.student, scene.teacher))
        return loss(s, t)

    return found


def on_logits(loss: Callable[[Any, Tensor, Tensor, Tensor], Tensor]) -> Source:
    def found(path: Any, scene: Scene) -> Tensor:
        assert scene.student.logits is not None
        assert scene.teacher.logits is not None
        return loss(path.options, scene.student.logits, scene.teacher.logits, scene.batch["label"])

    return found


def energy(feature: Tensor) -> Tensor:
    q = feature.square().sum(1).flatten(1)
    return q / (q.norm(dim=1, keepdim=True) + 1e-6)


def gramian(feature: Tensor) -> Tensor:
    unit = F.normalize(feature.flatten(2), dim=2)
    return torch.bmm(unit, unit.transpose(1, 2))


def kernel(one: Tensor, other: Tensor) -> Tensor:
    one, other = (F.normalize(f.flatten(2), dim=2) for f in (one, other))
    return torch.einsum("ncp,ndp->ncd", one, other).square()


def nst_mmd(s: Tensor, t: Tensor) -> Tensor:
    return kernel(t, t).mean() + kernel(s, s).mean() - 2 * kernel(s, t).mean()


def soft_target(options: Any, s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    T = options.temperature
    return F.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean") * T**2


def dkd(options: Any, s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    T, own = options.temperature, F.one_hot(label, s.shape[1]).bool()
    p, q = (s / T).softmax(1), (t / T).softmax(1)
    pair_s, pair_t = (torch.stack([(v * own).sum(1), (v * ~own).sum(1)], 1) for v in (p, q))
    target = F.kl_div(pair_s.log(), pair_t, reduction="sum") * T**2 / len(s)
    rest_s, rest_t = (v / T - 1000.0 * own for v in (s, t))
    others = F.kl_div(rest_s.log_softmax(1), rest_t.softmax(1), reduction="sum") * T**2 / len(s)
    return options.alpha * target + options.beta * others


def pearson(s: Tensor, t: Tensor) -> Tensor:
    return F.cosine_similarity(s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True), dim=1)


def dist(options: Any, s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    p, q = (s / options.temperature).softmax(1), (t / options.temperature).softmax(1)
    inter, intra = 1 - pearson(p, q).mean(), 1 - pearson(p.T, q.T).mean()
    return options.temperature**2 * (options.beta * inter + options.gamma * intra)


def correlation(s: Tensor, t: Tensor) -> Tensor:
    def series(e: Tensor) -> Tensor:
        e = F.normalize(e, dim=1)
        similarity, gamma = e @ e.T, 0.4
        terms = [(2 * gamma) ** p / (1, 1, 2)[p] * similarity**p for p in range(3)]
        return torch.exp(torch.tensor(-2 * gamma)) * torch.stack(terms).sum(0)

    return (series(s) - series(t)).square().mean()


def pkt(s: Tensor, t: Tensor) -> Tensor:
    p, q = ((F.normalize(e, dim=1) @ F.normalize(e, dim=1).T + 1) / 2 for e in (t, s))
    p, q = (v / v.sum(1, keepdim=True) for v in (p, q))
    return (p * ((p + 1e-7) / (q + 1e-7)).log()).mean()


def rkd(s: Tensor, t: Tensor) -> Tensor:
    distances, angles = [], []
    for e in (s, t):
        d = (e[:, None] - e[None]).square().sum(2)
        d = d.clamp_min(1e-12).sqrt() * ~torch.eye(len(e), dtype=torch.bool)
        distances.append(d / d[d > 0].mean())
        unit = F.normalize(e[None] - e[:, None], dim=2)
        angles.append(torch.bmm(unit, unit.transpose(1, 2)).flatten())
    return 25 * F.smooth_l1_loss(*distances) + 50 * F.smooth_l1_loss(*angles)


def similarity(path: Any, scene: Scene) -> Tensor:
    sides = (side.features[-1].flatten(1) for side in (scene.student, scene.teacher))
    g_s, g_t = (F.normalize(e @ e.T, dim=1) for e in sides)
    return (g_t - g_s).square().view(-1, 1).sum(0).sum() / len(g_s) ** 2


def softmax_regression(path: Any, scene: Scene) -> Tensor:
    ((_, s, _),) = stages(path, scene)
    assert scene.teacher.logits is not None
    return F.mse_loss(path.head(s.mean((2, 3))), scene.teacher.logits)


def vid(path: Any, scene: Scene) -> Tensor:
    total = torch.zeros((), dtype=scene.dtype)
    for stage, mean, t in stages(path, scene):
        variance = (F.softplus(path.scales[str(stage)]) + 1e-5)[None, :, None, None]
        total = total + (0.5 * ((mean - t).square() / variance + variance.log())).mean()
    return total


def review(path: Any, scene: Scene) -> Tensor:
    ours, theirs = [*scene.student.features], [*scene.teacher.features]
    for maps in (ours, theirs):
        maps.append(maps[-1].mean((2, 3), keepdim=True))
    handed, total = None, torch.zeros((), dtype=scene.dtype)
    for fusion, s, t in reversed(list(zip(path.fusions, ours, theirs, strict=True))):
        found, handed = fusion(s, handed, t.shape[-2:])
        loss, weight, sum_ = F.mse_loss(found, t), 1.0, 1.0
        for side in (4, 2, 1):
            if side < found.shape[2]:
                weight /= 2
                pools = (F.adaptive_avg_pool2d(v, (side, side)) for v in (found, t))
                loss, sum_ = loss + F.mse_loss(*pools) * weight, sum_ + weight
        total = total + loss / sum_
    return total


def crd(path: Any, scene: Scene) -> Tensor:
    """The sum over a batch of anchors over its size, negatives in expectation, from the path's own memory."""
    (contrast,) = path.contrasts.values()
    m, mass, label, total = path.options.negatives, contrast.shift, scene.batch["label"], 0
    row = scene.batch["sample"] % len(contrast.sample)
    sides = ("student", scene.student, "teacher"), ("teacher", scene.teacher, "student")
    for mine, outputs, other in sides:
        embed = getattr(contrast, f"embed_{mine}")
        anchors = F.normalize(embed(outputs.features[-1].mean((2, 3))), dim=1)
        memory, known = getattr(contrast, other), contrast.sample >= 0
        for anchor, place, own in zip(anchors, row, label, strict=True):
            h = torch.exp(memory @ anchor / path.options.temperature - mass)  # over m Z, so m is 1 here
            negatives = h[known & (contrast.label != own)]
            chance = torch.log(h[place] / (h[place] + 1)) + m * torch.log(1 / (negatives + 1)).mean()
            total = total - chance / len(anchors)
    assert isinstance(total, Tensor)
    return total


def channel_wise(path: Any, scene: Scene) -> Tensor:
    T = path.options.temperature
    s, t = scene.student.logits, scene.teacher.logits
    if path.stages:
        ((_, s, t),) = stages(path, scene)
    assert s is not None
    assert t is not None
    ours, theirs = ((v.flatten(2) / T).softmax(2) for v in (s, t))
    return F.kl_div(ours.log(), theirs, reduction="sum") / (len(s) * t.shape[1]) * T**2


def pairwise(s: Tensor, t: Tensor) -> Tensor:
    maps = (F.normalize(F.max_pool2d(f, 2, 2, ceil_mode=True), dim=1).flatten(2) for f in (s, t))
    a_s, a_t = (f.transpose(1, 2) @ f for f in maps)
    return (a_s - a_t).square().mean()


def cirkd(s: Tensor, t: Tensor) -> Tensor:
    ours, theirs = (F.normalize(f, dim=1).flatten(2) for f in (s, t))
    total = torch.zeros((), dtype=s.dtype)
    for i in range(len(s)):
        for j in range(len(s)):
            q = (ours[i].T @ ours[j] / 0.1).log_softmax(1)
            total = total + F.kl_div(q, (theirs[i].T @ theirs[j] / 0.1).softmax(1), reduction="batchmean")
    return total / len(s) ** 2


def cells(scene: Scene, size: torch.Size) -> Tensor:
    """The classes of a map's cells, for scenes whose masks are constant over a cell but for one pixel."""
    step = scene.batch["mask"].shape[-1] // size[-1]
    return scene.batch["mask"][:, step // 2 :: step, step // 2 :: step]


def cirkd_memory(path: Any, scene: Scene) -> Tensor:
    ((stage, s, t),) = stages(path, scene)
    labelled, total = cells(scene, t.shape[-2:]) != IGNORE, torch.zeros((), dtype=scene.dtype)
    s, t = (F.normalize(f, dim=1).movedim(1, -1)[labelled] for f in (s, t))
    for memory in (path.pixels[str(stage)], path.regions[str(stage)]):
        remembered = memory.filled(scene.classes).to(s.dtype)
        ours, theirs = ((rows @ remembered.T / 0.1) for rows in (s, t))
        total = total + F.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    return total


def ifvd(path: Any, scene: Scene) -> Tensor:
    ((_, s, t),) = stages(path, scene)
    classes, cosines = cells(scene, t.shape[-2:]), []
    for feature in (s, t):
        centre = feature.clone()
        for k in range(scene.classes):
            own = (classes == k).unsqueeze(1).to(feature.dtype)
            mean = (own * feature).sum((2, 3), keepdim=True) / (own.sum((2, 3), keepdim=True) + 1e-6)
            centre = (1 - own) * centre + own * mean
        cosines.append(F.cosine_similarity(feature, centre, dim=1))
    return F.mse_loss(*cosines)


def imitation(path: Any, scene: Scene) -> Tensor:
    """LD's code: the mean over a level's chosen positions and channels, level by level."""
    masks = path.masks(scene.student, scene.batch) if hasattr(path, "masks") else None
    total = torch.zeros((), dtype=scene.dtype)
    for stage, s, t in stages(path, scene):
        rows = torch.ones_like(t[:, 0], dtype=torch.bool) if masks is None else masks[stage]
        chosen = [f.movedim(1, -1)[rows] for f in (s, t)]
        total = total + (F.mse_loss(*chosen) if rows.any() else 0)
    return total


def by_level(scene: Scene) -> Iterator[Tensor]:
    """The positives of each level, as a mask over all positions (N, L)."""
    head: Any = scene.student.head
    found, start = head.positives(scene.student, scene.batch), 0
    for height, width in head.level_sizes:
        chosen = torch.zeros_like(found)
        chosen[:, start : start + height * width] = found[:, start : start + height * width]
        start += height * width
        yield chosen


def class_logit(path: Any, scene: Scene) -> Tensor:
    T, total = path.options.temperature, torch.zeros((), dtype=scene.dtype)
    assert scene.student.logits is not None
    assert scene.teacher.logits is not None
    for chosen in by_level(scene):
        if chosen.any():
            ours, theirs = ((z[chosen] / T).sigmoid() for z in (scene.student.logits, scene.teacher.logits))
            both = (torch.stack([p, 1 - p]) for p in (ours, theirs))
            q, p = both
            total = total + (p * (p / q).log()).sum(0).mean(1).sum() * T**2 / int(chosen.sum())
    return total


def localisation(path: Any, scene: Scene) -> Tensor:
    T, total = path.options.temperature, torch.zeros((), dtype=scene.dtype)
    assert scene.student.logits is not None
    for chosen in by_level(scene):
        weight = scene.student.logits.detach().sigmoid().amax(2)[chosen]
        corners = [side.extra["bins"][chosen].flatten(0, 1) / T for side in (scene.student, scene.teacher)]
        each = F.kl_div(corners[0].log_softmax(1), corners[1].softmax(1), reduction="none").mean(1) * T**2
        total = total + (each * weight[:, None].expand(-1, 4).reshape(-1)).sum() / 4.0
    return total


def fgd(path: Any, scene: Scene) -> Tensor:
    boxes, there = scene.batch["boxes"], (scene.batch["box_label"] >= 0) & ~scene.batch["crowd"]
    height, width = scene.batch["image"].shape[-2:]
    alpha, beta, gamma, relation, temperature = path.strengths
    total = torch.zeros((), dtype=scene.dtype)
    for stage, s, t in stages(path, scene):
        scale = torch.tensor([t.shape[-1] / width, t.shape[-2] / height] * 2)
        mask = object_mask(boxes * scale, there, (t.shape[-2], t.shape[-1])).to(t.dtype)
        rest = (mask == 0).to(t.dtype)
        rest = rest / rest.sum((1, 2), keepdim=True).clamp_min(1)
        (places, channels), own = attention(t, temperature), attention(s, temperature)
        for strength, where in ((alpha, mask), (beta, rest)):
            root = where.unsqueeze(1).sqrt() * places.unsqueeze(1).sqrt() * channels[:, :, None, None].sqrt()
            total = total + strength * F.mse_loss(s * root, t * root, reduction="sum") / len(s)
        apart = (own[0] - places).abs().sum() + (own[1] - channels).abs().sum()
        ours, theirs = path.relations[str(stage)]
        whole = F.mse_loss(ours(s), theirs(t), reduction="sum")
        total = total + (gamma * apart + relation * whole) / len(s)
    return total


def mgd(path: Any, scene: Scene) -> Tensor:
    total = torch.zeros((), dtype=scene.dtype)
    for stage, s, t in stages(path, scene):
        kept = path.kept(scene.batch["sample"], stage, (s.shape[-2], s.shape[-1]))
        found = path.generators[str(stage)](s * kept)
        total = total + F.mse_loss(found, t, reduction="sum") / len(s)
    return total


def pkd(s: Tensor, t: Tensor) -> Tensor:
    def norm(feature: Tensor) -> Tensor:
        rows = feature.transpose(0, 1).flatten(1)
        return (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-6)

    return F.mse_loss(norm(s), norm(t)) / 2


SOURCES: dict[str, Source] = {
    "attention_transfer": over_stages(lambda s, t: F.mse_loss(energy(s), energy(t))),
    "box_mask": imitation,
    "channel_wise": channel_wise,
    "cirkd": over_stages(cirkd),
    "cirkd_memory": cirkd_memory,
    "class_logit": class_logit,
    "correlation": last_pooled(correlation),
    "crd": crd,
    "dist": on_logits(dist),
    "distillation_token": lambda _, x: F.cross_entropy(*x.student.extra.values(), x.teacher.logits.argmax(1)),
    "dkd": on_logits(dkd),
    "feature_map": over_stages(lambda s, t: F.mse_loss(s.mean((2, 3)), t.mean((2, 3)))),
    "fgd": fgd,
    "fgfi": imitation,
    "fpn_imitation": imitation,
    "hint": over_stages(F.mse_loss),
    "ifvd": ifvd,
    "localisation": localisation,
    "logits": on_logits(lambda options, s, t, label: F.mse_loss(s, t)),
    "mgd": mgd,
    "nst": over_stages(lambda s, t: F.mse_loss(gramian(s), gramian(t))),
    "nst_mmd": over_stages(nst_mmd),
    "pairwise": over_stages(pairwise),
    "pkd": over_stages(pkd),
    "pkt": last_pooled(pkt),
    "review": review,
    "rkd": last_pooled(rkd),
    "similarity": similarity,
    "soft_target": on_logits(soft_target),
    "softmax_regression": softmax_regression,
    "vid": vid,
}
"""The paths whose static weight a source publishes."""
