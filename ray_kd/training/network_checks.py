"""Tries a network's forward pass before anything trains: a mistake is one message with the module's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from ray_kd.config.errors import UserError
from ray_kd.models.blank import ask_on_meta, in_mode
from ray_kd.outputs import Outputs, as_outputs

Shape = tuple[int, int, int, int]
"""Of a batch of images: samples, channels, height, width."""
Made = TypeVar("Made")


def made(where: str, make: Callable[[], Made]) -> Made:
    """What ``make`` builds, on the meta device, or in memory where building needs values."""
    try:
        with torch.device("meta"):
            return make()
    except UserError:
        raise
    except Exception:  # a mistake, or something that the meta device does not have
        with naming_module(None, f"{where}: it cannot be built"):
            return make()


def try_forward(
    model: nn.Module,
    shape: Shape,
    where: str,
    *,
    training: bool = False,
    real: Callable[[], nn.Module] | None = None,
    trusted: bool = False,
) -> Any:
    """What a network gives for images of a shape, without memory where it can be asked so.

    Nothing of it changes: no weight, no statistic, no mode, no random stream.

    Args:
        real: the same network in memory, where ``model`` lies on the meta device.
        trusted: its code is ray-kd's: where the meta device alone cannot do it, None is the answer.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps: compiling it would take minutes
    try:
        with in_mode(model, training), torch.device("meta"):
            return ask_on_meta(model, shape)
    except UserError:
        raise
    except Exception as error:  # a mistake, or an operator or a value that the meta device does not have
        if trusted and (isinstance(error, NotImplementedError) or "meta" in str(error)):
            return None
        model = model if real is None else real()
    with naming_module(model, f"{where}: its forward pass fails on images of shape {list(shape)}"):
        return _in_memory(model, shape, training)


@contextmanager
def naming_module(model: nn.Module | None, what: str) -> Iterator[None]:
    """Within the block an error in a network, or a path, becomes one message that names the module.

    Args:
        model: whose modules are named; None: of the first network that was running.
    """

    try:
        yield
    except (UserError, torch.OutOfMemoryError, OSError):
        raise  # a message already, or no mistake of the network's
    except Exception as error:
        name = failing_module(error, model)
        where = f" in module {name}" if name else ""
        text = (str(error).strip().splitlines() or [""])[0][:300]
        raise UserError(f"{what}{where}: {type(error).__name__}: {text}") from error


def failing_module(error: BaseException, model: nn.Module | None) -> str | None:
    """The innermost module of a network that was running when an error was raised, by name and class."""
    names: dict[int, str] = {}
    trace, found = error.__traceback__, None
    while trace is not None:
        module = trace.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and trace.tb_frame.f_code.co_name == "forward":
            model = module if model is None else model
            names = names or {id(part): name for name, part in model.named_modules()}
            found = module if id(module) in names else found
        trace = trace.tb_next
    if found is None:
        return None
    name = names[id(found)].removeprefix("net.") if names[id(found)] != "net" else ""
    return f"'{name}' ({type(found).__name__})" if name else type(found).__name__


def require_apart(student: nn.Module, teacher: nn.Module, name: str) -> None:
    """Refuse a teacher that has weights of the student: it is frozen, so that these would never train."""
    trained = {id(parameter) for parameter in student.parameters() if parameter.requires_grad}
    shared = [key for key, parameter in teacher.named_parameters() if id(parameter) in trained]
    if shared:
        raise UserError(
            f"teacher '{name}' shares weights with the student ('{shared[0].removeprefix('net.')}' ...), and "
            "a teacher is frozen; expected a network of its own: copy.deepcopy(student)."
        )


def check_outputs(found: Any, task: str, classes: int | None, model: nn.Module, where: str) -> Outputs:
    """A network's outputs as the task and the paths need them.

    Args:
        classes: how many the data has; None: not known.

    Raises:
        UserError: no logits, or no head of a detector; logits of another shape or for fewer classes;
            features that are not as ``stage_channels`` says.
    """
    outputs = as_outputs(found, where)
    logits, dims = outputs.logits, {"classification": 2, "segmentation": 4}.get(task)
    if dims is not None:
        shape = "(N, K)" if dims == 2 else "(N, K, H, W)"
        if logits is None or logits.dim() != dims:
            got = "none" if logits is None else f"the shape {list(logits.shape)}"
            raise UserError(f"{where}: {task} needs logits {shape}; got {got}.")
        if classes is not None and logits.shape[1] < classes:
            raise UserError(
                f"{where}: its logits are for {logits.shape[1]} classes, and the data has {classes} (0 to "
                f"{classes - 1}); expected a last layer for {classes}."
            )
    if task == "detection" and outputs.head is None:
        raise UserError(
            f"{where}: detection needs ray_kd.Outputs with a head, which reads its tensors and has its loss "
            "(see ray_kd.outputs.DetectionHead); got none."
        )
    channels = getattr(model, "stage_channels", None)
    given = tuple(feature.shape[1] if feature.dim() > 1 else 0 for feature in outputs.features)
    for index, (feature, count) in enumerate(zip(outputs.features, channels or (), strict=False)):
        if feature.shape[1] != count and feature.shape[-1] == count:
            raise UserError(
                f"{where}: features[{index}] has the shape {tuple(feature.shape)}, with its {count} channels "
                "last; expected a feature map (N, C, H, W)."
            )
    if channels is not None and tuple(channels) != given and (channels or not given):
        raise UserError(
            f"{where}: its stage_channels say {list(channels)}, and its features have {list(given)} channels."
        )
    return outputs


def _in_memory(model: nn.Module, shape: Shape, training: bool) -> Any:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), in_mode(model, training):
            return model(torch.zeros(shape, device=device))
    finally:
        for buffer, value in kept:
            with torch.no_grad():
                buffer.copy_(value)
