"""A network that your own code builds."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field
from torch import nn

from ray_kd.config.errors import UserError, nearest
from ray_kd.config.registry import MODELS
from ray_kd.models.tapped import TappedModel, last_linear
from ray_kd.models.taps import TapOptions, TappedOptions


def _place(value: str) -> str:
    module, mark, name = value.partition(":")
    if not (module and mark and name):
        raise ValueError(f"expected 'my_package.my_module:my_function', got '{value}'")
    return value


class FactoryOptions(TappedOptions):
    """Options of a network that your own code builds."""

    build: Annotated[str, AfterValidator(_place)]
    """Where the function is, my_package.nets:build; called as build(classes=, channels=, **options)."""
    options: dict[str, Any] = {}
    """Keyword arguments that it gets besides."""
    taps: tuple[str | TapOptions, ...] = ()
    """Paths of the modules that are its stages, shallow to deep, or mappings that say which call
    ({module: relu, call: 1}); not needed if it returns ray_kd.Outputs with features, or if no path reads
    any."""
    image_size: Annotated[int, Field(ge=1)] = 64
    """Height and width of the blank image by which the stages' channels are counted."""
    revision: int = 1
    """Yours to raise when the function gives another network: runs know it by its name alone."""


@MODELS.register("factory", source="your own code")
class Factory(TappedModel):
    """Whatever ``build(classes=, channels=, **options)`` returns: a module that gives logits, a mapping
    with ``out``, or Outputs, for images (N, C, H, W).

    It is built under the stream that initialises students, and saved under its own names. A module
    ``head`` (pooled features of the last stage -> logits) is what softmax regression reads; the last linear
    or convolutional layer is the one that ``head: fresh`` leaves as drawn.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "detection")
    Options = FactoryOptions

    def __init__(self, options: FactoryOptions, classes: int, channels: int) -> None:
        where = f"model factory ({options.build})"
        build = find(options.build)
        arguments = {"classes": classes, "channels": channels, **options.options}
        try:
            inspect.signature(build).bind(**arguments)
        except TypeError as error:
            raise UserError(
                f"{where}: {error}; it is called with {', '.join(f'{name}=' for name in arguments)}."
            ) from error
        except ValueError:  # something built in, which does not say what it takes
            pass
        net = build(**arguments)
        if not isinstance(net, nn.Module):
            raise UserError(f"{where}: expected a torch.nn.Module from it, got {type(net).__name__}.")
        super().__init__(net, options.taps, where)
        self.last_layers = last_linear(net)
        outputs = self.measure(channels, options.image_size)
        logits = outputs.logits
        if outputs.head is None and logits is not None and logits.dim() > 1 and logits.shape[1] != classes:
            raise UserError(
                f"{where}: its logits are for {logits.shape[1]} classes, expected {classes} (classes=)."
            )

    def __getattr__(self, name: str) -> Any:
        if name in ("head", "neck"):
            return getattr(super().__getattr__("net"), name)
        return super().__getattr__(name)


def find(place: str) -> Callable[..., Any]:
    """The function at ``package.module:function``.

    Raises:
        UserError: the module cannot be imported, or has no such function.
    """
    where = f"model factory: build '{place}'"
    module_name, _, name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{where}: cannot import '{module_name}' ({error}). It must be importable where ray-kd runs: "
            "installed, in a folder on PYTHONPATH, or beside the file that names it."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        guess = nearest(name, functions)
        hint = f" Did you mean '{guess}'?" if guess else ""
        raise UserError(f"{where}: '{module_name}' has no function '{name}'.{hint}")
    return found  # type: ignore[no-any-return]
