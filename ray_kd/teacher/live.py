"""A live teacher, which computes targets by a forward pass for each batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from ray_kd.outputs import Outputs, as_outputs
from ray_kd.paths.base import Path
from ray_kd.teacher.normalise import Renormalise

Targets = dict[str, Mapping[str, Tensor]]


def digest_of(model: nn.Module) -> str:
    """16 hexadecimal digits of a network's weights."""
    found = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


class LiveTeacher:
    """A frozen network in evaluation mode.

    Args:
        model: any module that returns Outputs for images.
        renormalise: changes the student's images to the model's normalisation; None: it is the same.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, renormalise: Renormalise | None = None
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device, self.renormalise = device, renormalise

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of its weights."""
        return digest_of(self.model)

    @torch.no_grad()
    def outputs(self, images: Tensor) -> Outputs:
        """The teacher's outputs for the student's images (N, C, H, W)."""
        if self.renormalise is not None:
            images = self.renormalise(images)
        return as_outputs(self.model(images), "teacher")


class Teachers:
    """The targets of every path from its teacher; each teacher runs once for each batch.

    Args:
        names: which teacher each path learns from, by the path's label.
    """

    def __init__(
        self, teachers: Mapping[str, LiveTeacher], paths: Sequence[Path], names: Mapping[str, str]
    ) -> None:
        self._by_teacher = [
            (teacher, [path for path in paths if names[path.label] == name])
            for name, teacher in teachers.items()
        ]

    @torch.no_grad()
    def targets(self, batch: Mapping[str, Tensor]) -> Targets:
        """The target of each path, by its label, for the batch's samples under its views."""
        found: Targets = {}
        for teacher, paths in self._by_teacher:
            if paths:
                outputs = teacher.outputs(batch["image"])
                found.update({path.label: path.target(outputs) for path in paths})
        return found
