"""What a tap is: a module, which of its calls, and how what it returns is laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ray_kd.config.options import ModelOptions, Strict

Layout = Literal["NCHW", "NHWC", "NLC", "NCL"]
Shape = tuple[int, ...]
WORDS: dict[str, str] = {
    "NCHW": "a feature map (N, C, H, W)",
    "NHWC": "(N, H, W, C), its channels last as Swin's are",
    "NLC": "(N, L, C), tokens as a ViT's are",
    "NCL": "(N, C, L), without height and width",
}


class TapOptions(Strict):
    """A tap that needs more than its module's path."""

    module: str
    """The module's path in the network, such as layer2.0.relu."""
    call: Annotated[int, Field(ge=0)] | None = None
    """Which of its calls in a forward pass, counted from 0; None: it is called once."""

    def __str__(self) -> str:
        return self.module if self.call is None else f"{self.module}, call {self.call}"


class TappedOptions(ModelOptions):
    """Options of networks whose stages are taps, where the options name some."""

    reading: ClassVar[int] = 2
    """How taps that are named are read: since 2 they hand on what the module returned, whatever changes it
    later, and torchvision's Swin tells its maps apart. Default taps gave the same before."""

    def essence(self) -> dict[str, Any]:
        found = super().essence()
        return {**found, "reading": self.reading} if getattr(self, "taps", None) else found


@dataclass
class Watch:
    """What the taps of a network saw in the forward pass that runs, or ran last.

    Attributes:
        on: whether a forward pass runs: what is called at another time (activations that are computed again
            for the backward pass) is not listened to.
        raw: features are handed on in whatever layout they are, while the network is measured.
        training: whether the network trains.
        seen: by tap, what it hands on.
        calls: by tap, how often its module was called.
        returned: by tap, the tensor that the module returned, and its version then.
    """

    on: bool = False
    raw: bool = False
    training: bool = False
    seen: dict[int, Any] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)
    returned: dict[int, tuple[Tensor, int]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget it all."""
        self.seen.clear()
        self.calls.clear()
        self.returned.clear()

    def shapes(self) -> dict[int, Shape | None]:
        """By tap, the shape of what it handed on; None: that was no tensor."""
        return {
            index: tuple(value.shape) if isinstance(value, Tensor) else None
            for index, value in self.seen.items()
        }

    def changed(self) -> set[int]:
        """The taps whose tensors were changed in place since: such an operation raises a tensor's version."""
        return {index for index, (value, was) in self.returned.items() if value._version != was}


class Tap:
    """A forward hook that hands on what a module returned in one of its calls.

    What follows may change that tensor in place, as ReLU does in torchvision's networks: where it does, or
    where it is not known whether it does, a copy is handed on.

    An object with its watch, not a closure: copied with the network, it belongs to the copy.

    Attributes:
        kept: whether tensors stay as they were returned, by whether the network trains.
    """

    def __init__(self, index: int, call: int | None, watch: Watch) -> None:
        self.index, self.call, self.watch = index, call, watch
        self.kept = {True: False, False: False}

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        watch = self.watch
        if not watch.on:
            return
        count = watch.calls.get(self.index, 0)
        watch.calls[self.index] = count + 1
        if count != (self.call or 0):
            return
        if not isinstance(output, Tensor):
            watch.seen[self.index] = output
        elif torch.compiler.is_compiling() or output.is_inference():  # neither tells versions
            watch.seen[self.index] = output.clone()
        else:
            watch.returned[self.index] = (output, output._version)
            watch.seen[self.index] = output if self.kept[watch.training] else output.clone()


def layout_of(
    shape: Shape, batch: int, larger: Shape | None = None, known: Layout | None = None
) -> Layout | None:
    """How a feature is laid out; None: it is no feature, or nothing tells.

    Args:
        shape: the feature's, for a batch of square images.
        batch: how many images there were.
        larger: its shape for images of another size, which is what tells where a shape alone does not (of
            C = H = W, say).
        known: what the network says of itself; asked last.
    """
    if len(shape) not in (3, 4) or shape[0] != batch:
        return None
    grown = [index for index in range(1, len(shape)) if larger is not None and larger[index] != shape[index]]
    if len(shape) == 3:
        return "NCL" if grown == [2] else "NLC" if grown == [1] else known or "NLC"
    # Which two dimensions are as square as the image?
    first, last = shape[1] == shape[2], shape[2] == shape[3]
    if grown:
        first, last = 3 not in grown, 1 not in grown
    if first == last:
        return known
    return "NCHW" if last else "NHWC"


def undecided(shapes: Sequence[Shape | None], batch: int) -> bool:
    """Whether images of another size have to tell how a feature is laid out."""
    return any(shape is not None and (len(shape) == 3 or layout_of(shape, batch) is None) for shape in shapes)


def channels_of(shape: Shape, layout: Layout) -> int:
    """How many channels a feature of this shape and layout has."""
    return shape[{"NCHW": 1, "NHWC": 3, "NLC": 2, "NCL": 1}[layout]]
