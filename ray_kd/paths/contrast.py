"""The contrast of CRD: two embeddings, and a bounded memory of both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.paths.gather import all_rows


class Contrast(nn.Module):
    """Contrastive loss of student against teacher vectors; see ``Crd`` for the formula.

    Args:
        into, out: widths of the student's and of the teacher's vectors.
        dimensions: of the common space, d.
        rows: of the memory; sample i has row i mod ``rows``.
        negatives: m.
        temperature: tau.
        momentum: of remembered embeddings.
    """

    student: Tensor
    teacher: Tensor
    sample: Tensor
    label: Tensor

    def __init__(
        self,
        into: int,
        out: int,
        dimensions: int,
        rows: int,
        negatives: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.embed_student, self.embed_teacher = nn.Linear(into, dimensions), nn.Linear(out, dimensions)
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        # log Z + log m, where Z is the mean of exp(score / tau) over random unit vectors.
        self.shift = 1 / (2 * dimensions * temperature**2) + math.log(negatives)
        self.register_buffer("student", torch.zeros(rows, dimensions))
        self.register_buffer("teacher", torch.zeros(rows, dimensions))
        self.register_buffer("sample", torch.full((rows,), -1))
        self.register_buffer("label", torch.full((rows,), -1))

    def forward(self, ours: Tensor, theirs: Tensor, sample: Tensor, label: Tensor, remember: bool) -> Tensor:
        """Scalar loss of vectors (N, into) and (N, out) of samples (N,) with labels (N,).

        ``remember``: add the embeddings (of all ranks) to the memory.
        """
        ours = F.normalize(self.embed_student(ours), dim=1)
        theirs = F.normalize(self.embed_teacher(theirs), dim=1)
        with torch.no_grad():
            seen = [all_rows(values) for values in (ours, theirs, sample, label)] if remember else []
            if remember:
                self._admit(*seen)
            row = sample % len(self.sample)
            known = (self.sample[row] == sample).unsqueeze(1)
            own_ours = torch.where(known, self.student[row], ours)
            own_theirs = torch.where(known, self.teacher[row], theirs)
            filled = (self.sample >= 0).nonzero().squeeze(1)
            others = self.label[filled] != label.unsqueeze(1)
            share = others / others.sum(dim=1, keepdim=True).clamp_min(1) * self.negatives
        loss = self._side(ours, own_theirs, self.teacher[filled], share)
        loss = loss + self._side(theirs, own_ours, self.student[filled], share)
        if remember:
            self._follow(*seen[:3])
        return loss

    def _side(self, anchor: Tensor, own: Tensor, others: Tensor, share: Tensor) -> Tensor:
        """Anchors (N, d), their positives (N, d), and negatives (M, d) with weights (N, M)."""
        positive = (anchor * own).sum(dim=1) / self.temperature - self.shift
        negative = anchor @ others.T / self.temperature - self.shift
        return (F.softplus(-positive) + (F.softplus(negative) * share).sum(dim=1)).mean()

    @torch.no_grad()
    def _admit(self, ours: Tensor, theirs: Tensor, sample: Tensor, label: Tensor) -> None:
        """Fill the rows of samples that are not in the memory."""
        row = sample % len(self.sample)
        known = (self.sample[row] == sample).unsqueeze(1)
        for memory, values in ((self.student, ours), (self.teacher, theirs)):
            memory.index_copy_(0, row, torch.where(known, memory[row], values))
        self.sample.index_copy_(0, row, sample)
        self.label.index_copy_(0, row, label)

    @torch.no_grad()
    def _follow(self, ours: Tensor, theirs: Tensor, sample: Tensor) -> None:
        """Move remembered embeddings towards the present ones."""
        row = sample % len(self.sample)
        for memory, values in ((self.student, ours), (self.teacher, theirs)):
            moved = self.momentum * memory[row] + (1 - self.momentum) * values
            memory.index_copy_(0, row, F.normalize(moved, dim=1))
