"""Images for a teacher that was trained with another normalisation than the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import Options, OwnOptions
from ray_kd.config.registry import MODELS
from ray_kd.config.screen import logger
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.models.base import StagedModel

LOG = logger(__name__)
Statistics = tuple[Sequence[float], Sequence[float]]


class Renormalise:
    """Changes images from one normalisation, (image - m) / s, to another.

    Args:
        given: mean and standard deviation of the input.
        wanted: mean and standard deviation of the output.
    """

    def __init__(self, given: Statistics, wanted: Statistics) -> None:
        mean, std, other_mean, other_std = (
            torch.tensor(list(values), dtype=torch.float64).view(-1, 1, 1) for values in (*given, *wanted)
        )
        self.scale = (std / other_std).float()
        self.shift = ((mean - other_mean) / other_std).float()

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in the other normalisation."""
        if self.scale.device != images.device:
            self.scale, self.shift = self.scale.to(images.device), self.shift.to(images.device)
        return images * self.scale + self.shift


def renormalisation(spec: RunSpec, name: str, dataset: Dataset) -> Renormalise | None:
    """What changes the student's images to the normalisation of teacher ``name``; None if it is the same.

    Raises:
        UserError: the student's dataset has no known normalisation, or the numbers of channels differ.
    """
    wanted = _of_teacher(spec, name)
    if wanted is None:
        return None
    where = f"teachers.{name}.normalise"
    if dataset.mean is None or dataset.std is None:
        if spec.teachers[name].normalise is None:
            LOG.warning(
                "%s is known (from its weights, or the dataset it is trained on), and dataset '%s' does not "
                "say what its images were normalised with: they are handed on as they are.",
                where,
                spec.dataset.component_name,
            )
            return None
        raise UserError(
            f"{where}: dataset '{spec.dataset.component_name}' has no known normalisation "
            "(mean, std), so its images cannot be changed to the teacher's."
        )
    given = (tuple(dataset.mean), tuple(dataset.std))
    if given == wanted:
        return None
    if {len(values) for values in (*given, *wanted)} != {dataset.channels}:
        raise UserError(
            f"{where}: expected a mean and a std for each of {dataset.channels} channels, got "
            f"{len(wanted[0])} and {len(wanted[1])}."
        )
    return Renormalise(given, wanted)


def _of_teacher(spec: RunSpec, name: str) -> Statistics | None:
    """The teacher's normalisation, if it is given and differs from the student's."""
    teacher = spec.teachers[name]
    if teacher.normalise is not None:
        return teacher.normalise.mean, teacher.normalise.std
    if teacher.weights is not None:
        model = MODELS.get(teacher.model.component_name)
        said = model.preprocessing(teacher.model, teacher.weights) if issubclass(model, StagedModel) else None
        return None if said is None else (said.mean, said.std)
    if isinstance(teacher.model, OwnOptions):
        return None
    theirs, ours = (_said(options) for options in (spec.teacher_run(name).dataset, spec.dataset))
    return None if theirs == ours else theirs


def _said(options: Options) -> Statistics | None:
    """The mean and standard deviation in a dataset's options, if it has them."""
    mean, std = getattr(options, "mean", None), getattr(options, "std", None)
    return None if mean is None or std is None else (tuple(mean), tuple(std))
