"""How close a student is to its teacher, and how honest its probabilities are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15


def fidelity_sums(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    """Sums that ``fidelity_metrics`` reads.

    Args:
        student, teacher: logits (N, K).
        label: true classes (N,).

    Returns:
        (5,): samples, KL(teacher || student) in nats at temperature 1, samples where both predict the
        same class, samples where the teacher is wrong, and those of them where both predict the same.
    """
    divergence = F.kl_div(
        F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="sum", log_target=True
    )
    chosen = teacher.argmax(dim=1)
    same, wrong = student.argmax(dim=1) == chosen, chosen != label
    count = torch.tensor(float(len(label)), device=student.device)
    return torch.stack([count, divergence, same.sum(), wrong.sum(), (same & wrong).sum()])


def fidelity_metrics(sums: Tensor) -> dict[str, float]:
    """``kl``: mean KL(teacher || student), nats; ``agreement``; ``agreement_wrong``: agreement where the
    teacher is wrong, which the student cannot learn from labels (left out if it never is).

    Fidelity as Stanton et al., NeurIPS 2021, arXiv 2106.05945, measure it.
    """
    count, divergence, same, wrong, both = sums.tolist()
    if not count:
        return {}
    found = {"kl": divergence / count, "agreement": same / count}
    if wrong:
        found["agreement_wrong"] = both / wrong
    return found


def calibration_sums(logits: Tensor, label: Tensor) -> Tensor:
    """Samples, confidence and hits in each of 15 equal bins of confidence, (3, 15)."""
    confidence, chosen = logits.softmax(dim=1).max(dim=1)
    place = (confidence * BINS).long().clamp_(0, BINS - 1)
    hit = (chosen == label).to(confidence.dtype)
    rows = torch.stack([torch.ones_like(confidence), confidence, hit])
    return rows.new_zeros(3, BINS).index_add_(1, place, rows)


def calibration_error(sums: Tensor) -> float:
    """Expected calibration error: the mean over samples of |confidence - accuracy| of their bin."""
    count, confidence, hits = sums
    return float((confidence - hits).abs().sum() / count.sum().clamp_min(1))
