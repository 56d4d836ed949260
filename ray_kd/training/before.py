"""What is asked before step 1: does each path get its target, do gradients flow, can the teacher teach?

Nothing here changes a number of the run: no random stream, no statistic, no gradient, no path's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import in_order
from ray_kd.outputs import Outputs
from ray_kd.paths import Path
from ray_kd.training.check import essence_of_parts
from ray_kd.training.forward import telling
from ray_kd.training.objects import Own
from ray_kd.training.parts import Parts
from ray_kd.training.probing import untouched
from ray_kd.training.resident import Resident
from ray_kd.training.setting import Setting, resolve_precision

LOOKED_AT = 8
"""Samples on which the gradients' ways are looked at."""


def check_before(
    spec: RunSpec, parts: Parts, setting: Setting, resident: Resident, own: Own | None = None
) -> None:
    """Ask all of it, in a process once for the same parts; every rank has to come here.

    Args:
        own: a user's own objects among the parts; they are looked at every time.

    Raises:
        UserError: a path without a target, an adapter or a student that no gradient reaches, a teacher no
            better than chance; a network, a path or a task that fails on the first samples.
    """
    check_teachers(spec, parts, setting, resident)
    most = max(1, spec.training.batch_size // setting.world)
    dtype = resolve_precision(spec.training.precision, setting.device)
    if own is not None:
        check_gradients(parts, setting, most, dtype)
    else:  # a sweep's next trial differs in its seed, say
        key = ("gradients", essence_of_parts(spec), setting.device, setting.world)
        resident.once(key, lambda: check_gradients(parts, setting, most, dtype))


def check_teachers(spec: RunSpec, parts: Parts, setting: Setting, resident: Resident) -> None:
    """Whether every teacher, unless it is wrong on purpose, beats chance on validation samples.

    Raises:
        UserError: names the teacher, its figure and what guessing gives.
    """
    for name, live in parts.teachers.items():
        if spec.teachers[name].on_purpose:
            continue
        answers = parts.stored(name) if parts.stored is not None else None
        figures = resident.figures(live, parts.task, parts.dataset.validation, answers, setting)
        reason = parts.task.chance(figures)
        if reason is not None:
            key = f"teachers.{name}"
            raise UserError(
                f"teacher '{name}' is no better than chance on validation: {reason}. It has nothing to "
                f"teach: train it longer ({key}.training.epochs), or look at its weights, its classes and "
                f"what its images are normalised with ({key}.normalise). If that is the point: "
                f"{key}.at_chance: go_on."
            )


def check_gradients(parts: Parts, setting: Setting, most: int, dtype: torch.dtype) -> None:
    """Whether each path gets its target and sends a gradient to the student and to all it trains itself.

    Looked at with one forward and one backward for each path on a few training samples without views.

    Args:
        parts: the run's.
        setting: where.
        most: samples that this rank has in a step.
        dtype: of the run's forward passes.

    Raises:
        UserError: names the path, and the parameter that no gradient reaches; or the module, or the path,
            that fails.
    """
    batch = dict(next(in_order(parts.dataset.train, setting.device, size=min(LOOKED_AT, most))))
    batch["view"] = torch.zeros_like(batch["sample"])
    with telling(None, "targets: a teacher or a path fails on the first batch"):
        targets = parts.targets.targets(batch)
    paths = list(cast("list[Path]", parts.paths))
    for path in paths:
        if not targets.get(path.label):
            raise UserError(f"path '{path.label}' got no target from its teacher.")
    mixed = torch.autocast(setting.device.type, dtype=dtype, enabled=dtype != torch.float32)
    with _looking(parts), mixed:
        with telling(parts.student, "student: its forward pass fails on the first batch"):
            outputs = cast(Outputs, parts.student(batch["image"]))
        with telling(parts.student, "task: its loss fails on the first batch"):
            parts.task.loss(outputs, batch)
        for path in paths:
            with telling(path, f"path '{path.label}': it fails on the first batch"):
                _follow(path, outputs, targets[path.label], batch, parts.student)


def _follow(
    path: Path,
    outputs: Outputs,
    target: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    student: nn.Module,
) -> None:
    losses = path(outputs, target, batch)
    missing = [key for key in path.keys if key not in losses]
    if missing:
        raise UserError(
            f"path '{path.label}' gave no loss '{missing[0]}', only {', '.join(losses) or 'none'}."
        )
    total = torch.stack([losses[key] for key in path.keys]).sum()
    own = {name: value for name, value in path.named_parameters() if value.requires_grad}
    trained = [value for value in student.parameters() if value.requires_grad]
    if not total.requires_grad:
        raise UserError(f"path '{path.label}': its loss depends on nothing that trains: no gradient.")
    found = torch.autograd.grad(total, [*own.values(), *trained], retain_graph=True, allow_unused=True)
    for name, gradient in zip(own, found, strict=False):
        if gradient is None:
            raise UserError(
                f"path '{path.label}': no gradient reaches its '{name}', which would never train."
            )
    if all(gradient is None for gradient in found[len(own) :]):
        raise UserError(
            f"path '{path.label}': no gradient reaches the student: are its outputs detached, or all its "
            "weights frozen?"
        )


@contextmanager
def _looking(parts: Parts) -> Iterator[None]:
    """Within the block student and paths are in training mode; after it everything is as it was."""
    modules = nn.ModuleList([parts.student, parts.paths])
    modes = [(module, module.training) for module in modules.modules()]
    paths = cast("list[Path]", parts.paths)
    recording = [path.recording for path in paths]
    kept = [(buffer, buffer.clone()) for buffer in parts.student.buffers()]
    parts.student.train()
    parts.paths.train()
    try:
        with untouched(modules), torch.enable_grad():
            for path in paths:
                path.recording = False
            yield
    finally:
        for path, was in zip(paths, recording, strict=True):
            path.recording = was
        for buffer, value in kept:
            buffer.copy_(value)
        for module, was_training in modes:
            module.training = was_training
