"""What a ``Distiller`` is made of, from plain modules: networks, teachers, the task's loss, paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ray_kd.aggregation import Aggregator
from ray_kd.config.errors import UserError, unknown
from ray_kd.config.options import PathOptions, parse_component
from ray_kd.config.registry import PATHS, TASKS, Registry
from ray_kd.models.base import StagedModel, stage_channels
from ray_kd.models.library_model import pooled_head
from ray_kd.models.sync_norm import synchronise
from ray_kd.models.tapped import TappedModel
from ray_kd.paths import Path
from ray_kd.teacher import LiveTeacher
from ray_kd.teacher.normalise import Renormalise, Statistics
from ray_kd.training.build import bound_path
from ray_kd.training.engine import TaskLoss
from ray_kd.training.network_checks import naming_module, require_apart
from ray_kd.training.preflight import ImageShape

TASK_NEEDS = {"classification": ("label",), "segmentation": ("mask",), "detection": ("boxes", "box_label")}
"""What of the batch a task's loss reads."""


def require_numbers(steps: int | None, clip: float | None, task_weight: float) -> None:
    """Refuse numbers with which nothing could train."""
    if steps is not None and not (isinstance(steps, int) and steps > 0):
        raise UserError(f"steps: expected a whole number of at least 1, or None, got {steps}.")
    if clip is not None and not clip > 0:
        raise UserError(f"clip: expected a norm over 0, or None, got {clip}.")
    if not task_weight >= 0:
        raise UserError(f"task_weight: expected a number of at least 0, got {task_weight}.")


def parsed(registry: Registry, value: Any, where: str) -> Any:
    """The options of a component that is given by its name, by a mapping, or as options."""
    try:
        return parse_component(registry, value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}, got {value!r}.") from None


def as_network(net: Any, taps: Sequence[Any], image_shape: ImageShape | None, where: str) -> nn.Module:
    """A user's network as one that returns Outputs and says by ``stage_channels`` what its features are.

    Raises:
        UserError: it is no module, or wrapped by DDP; a tap that does not exist, or without ``image_shape``,
            or an ``image_shape`` that is none.
    """
    if not isinstance(net, nn.Module):
        raise UserError(f"{where}: expected a torch.nn.Module, got {type(net).__name__}.")
    if isinstance(net, (DistributedDataParallel, DataParallel)):
        raise UserError(
            f"{where}: expected the network itself, got {type(net).__name__}; where a process group exists, "
            "Distiller applies DistributedDataParallel: hand over what is wrapped (.module)."
        )
    if isinstance(taps, str):
        raise UserError(f"{where}: taps: expected a list of modules, got '{taps}'; write ['{taps}'].")
    if not taps and hasattr(net, "stage_channels"):
        return net
    if taps and image_shape is None:
        raise UserError(
            f"{where}: taps: say what the images' shape is, image_shape=(channels, height, width), so that "
            "the channels of each tap can be counted."
        )
    model = TappedModel(net, taps, where)
    for part in ("head", "neck"):  # what a path may bind; outside the modules, which have it already
        if isinstance(getattr(net, part, None), nn.Module):
            object.__setattr__(model, part, getattr(net, part))
    model.stage_channels = ()
    if image_shape is None:
        return model
    if len(image_shape) != 3 or not all(isinstance(size, int) and size > 0 for size in image_shape):
        raise UserError(f"image_shape: expected (channels, height, width), got {image_shape}.")
    with naming_module(model, f"{where}: its forward pass fails on images of shape {list(image_shape)}"):
        model.measure(image_shape[0], image_shape[1:])
    if taps and hasattr(model, "head") and not hasattr(model, "neck"):
        try:
            pooled_head(model, image_shape[0], [model.head])
        except AttributeError:  # it reads something else, a class token say
            object.__delattr__(model, "head")
    return model


def live_teachers(
    given: Any,
    student: nn.Module,
    taps: Mapping[str, Sequence[Any]],
    image_shape: ImageShape | None,
    normalise: Mapping[str, Statistics] | None,
    device: torch.device,
) -> dict[str, LiveTeacher]:
    """Teachers by name, frozen, in evaluation mode; one without a name is called ``teacher``.

    Raises:
        UserError: as ``as_network``; a teacher shares weights with the student; ``normalise`` names no
            network, or leaves out the student.
    """
    named = dict(given) if isinstance(given, Mapping) else {} if given is None else {"teacher": given}
    for what, mapping in (("normalise", normalise or {}), ("taps", taps)):
        for name in mapping:
            if name not in ("student", "teacher", *named):
                raise unknown("network", name, ["student", *named], what)
    if normalise and "student" not in normalise:
        raise UserError(
            "normalise: expected 'student', the (mean, std) of the images in the batches, beside "
            f"{', '.join(normalise)}."
        )
    found = {}
    for name, net in named.items():
        model = as_network(net, taps.get(name, ()), image_shape, "teacher" if name == "teacher" else name)
        require_apart(student, model, name)
        way = None
        if normalise and name in normalise and normalise[name] != normalise["student"]:
            way = Renormalise(normalise["student"], normalise[name])
        found[name] = LiveTeacher(model, device, way)
    return found


def task_loss_of(task: Any, loss: Any) -> tuple[str, TaskLoss]:
    """The name of the task, and the loss on labels: the task's, or one of the user's own.

    Raises:
        UserError: an unknown task; a loss that cannot be called, or that would have to be trained.
    """
    options = parsed(TASKS, task, "task")
    name = options.component_name
    if loss is None:
        return name, TASKS.get(name)(options, classes=0).loss
    if not callable(loss):
        raise UserError(f"task_loss: expected a function of (outputs, batch), got {type(loss).__name__}.")
    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        raise UserError("task_loss: it has parameters of its own; make them part of the student.")
    return name, loss


def paths_between(
    given: Sequence[Any],
    student: nn.Module,
    teachers: Mapping[str, LiveTeacher],
    task: str | None,
    seed: int,
) -> tuple[list[Path], dict[str, str]]:
    """The paths whose static weight is not 0, and the name of the teacher of each, by its label.

    Args:
        task: what they have to be for; None: they may be for any.

    Raises:
        UserError: an unknown path or option, a path that does not fit the networks or the task, a label
            that two paths have, a teacher that is not there.
    """
    if isinstance(given, (str, Mapping, PathOptions)):
        raise UserError(f"paths: expected a list, got {given!r}.")
    paths: list[Path] = []
    names: dict[str, str] = {}
    for index, value in enumerate(given):
        where = f"paths.{index}"
        options = parsed(PATHS, value, where)
        if options.weight == 0:
            continue
        tasks = PATHS.get(options.component_name).tasks
        if task is not None and task not in tasks:
            raise UserError(
                f"{where}: path '{options.component_name}' is for {' and '.join(tasks)}, and the task is "
                f"{task}."
            )
        label = options.label or options.component_name
        if label in names:
            raise UserError(f"{where}: a path is called '{label}' already; give one of them another label.")
        names[label] = teacher = _teacher_of(options, teachers, where)
        net = teachers[teacher].model
        try:
            paths.append(bound_path(options, student, net, seed))
        except UserError as error:
            bare = not (stage_channels(student) and stage_channels(net))
            hint = " taps=[...] of the Distiller names modules that give feature maps." if bare else ""
            raise UserError(f"{where}: {error}{hint}") from None
    if isinstance(student, StagedModel):
        student.predict_extra({entry for path in paths for entry in path.reads})
    return paths, names


def _teacher_of(options: PathOptions, teachers: Mapping[str, LiveTeacher], where: str) -> str:
    name = options.teacher or next(iter(teachers), None)
    if name is None:
        raise UserError(f"{where}: there is no teacher to learn from.")
    if options.teacher is None and len(teachers) > 1:
        raise UserError(f"{where}: expected 'teacher', one of {', '.join(teachers)}: there are several.")
    if name not in teachers:
        raise unknown("teacher", name, teachers, f"{where}.teacher")
    return name


def needs_of(task: str | None, paths: Sequence[Path], aggregator: Aggregator) -> dict[str, str]:
    """The keys that every batch has to have, and who needs each of them.

    Args:
        task: whose loss reads labels; None: a loss of the user's own, nobody knows what it reads.
    """
    needs = {"image": "the student"}
    if task is not None:
        needs |= dict.fromkeys(TASK_NEEDS.get(task, ()), f"task '{task}'")
    for path in paths:
        keys = [*path.needs_of(task or "classification"), *(["sample"] if path.options.corrupt else [])]
        needs |= {key: f"path '{path.label}'" for key in keys if key not in needs}
    if aggregator.probes and paths:
        needs.setdefault("sample", f"aggregator '{aggregator.name}'")
    return needs


def on_device(batch: Any, needs: Mapping[str, str], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device.

    Raises:
        UserError: it is no mapping, or lacks one of ``needs``, which says who needs each key.
    """
    if not isinstance(batch, Mapping):
        raise UserError(
            f"step(batch): expected a mapping with 'image', 'label' ..., got {type(batch).__name__}."
        )
    for key, who in needs.items():
        if key not in batch:
            raise UserError(f"step(batch): {who} needs batch['{key}'], got {sorted(batch)}.")
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def require_known(student: nn.Module, trained: Sequence[nn.Parameter]) -> None:
    """Refuse weights that train, and that the optimizer was not given."""
    known = set(trained)
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and parameter not in known:
            raise UserError(
                f"distiller.epochs: the student's '{name}' would never train: it is new, or was unfrozen, "
                "since the Distiller was made. Make the Distiller after that; what is to be frozen for some "
                "epochs only, freeze after it."
            )


def join_ranks(
    trained: Sequence[nn.Module], frozen: Sequence[nn.Module], device: torch.device, sync_batchnorm: bool
) -> None:
    """Give every rank rank 0's weights and statistics, and BatchNorms that see the global batch."""
    for module in (*trained, *frozen):
        module.to(device)
        for value in cast("list[torch.Tensor]", [*module.parameters(), *module.buffers()]):
            sent = value.detach().contiguous()
            dist.broadcast(sent, src=0)
            with torch.no_grad():
                value.copy_(sent)
    if sync_batchnorm:
        for module in trained:
            synchronise(module, device)
