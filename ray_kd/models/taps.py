"""What a tap is: a module, which of its calls, and how what it returns is laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from ray_kd.config.options import ModelOptions, Strict
from ray_kd.outputs import Layout

Shape = tuple[int, ...]
Size = tuple[int, int]
"""Height and width."""


class TapOptions(Strict):
    """A tap that needs more than its module's path."""

    module: str
    """The module's path in the network, such as layer2.0.relu."""
    call: Annotated[int, Field(ge=0)] | None = None
    """Which of its calls in a forward pass, counted from 0; None: it is called once."""
    layout: Layout | None = None
    """The order of the dimensions of what it returns; None: found by looking."""
    prefix: Annotated[int, Field(ge=0)] | None = None
    """How many tokens come before those of the grid (class token, registers); None: found by looking."""
    grid: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Rows and columns of its tokens, the same for every image; None: found by looking."""

    @model_serializer(mode="wrap")
    def _what_is_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}

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


@dataclass(frozen=True)
class Described:
    """What is known about a tap.

    Attributes:
        module: its path in the network.
        call: which of its calls in a forward pass.
        layout: the order of the dimensions of what it returns.
        channels: how many there are.
        prefix: tokens before those of the grid; they are left out of the map.
        grid: height and width, for an image of the size that was looked at.
        image: that size.
        fixed: the grid is the same for images of every size.
    """

    module: str
    call: int
    layout: Layout
    channels: int
    prefix: int
    grid: Size
    image: Size
    fixed: bool = False

    @property
    def stride(self) -> str:
        """How many of the image's rows and columns lie between two of the grid, as a table shows it."""
        rows, columns = (f"{a / b:g}" for a, b in zip(self.image, self.grid, strict=True))
        return rows if rows == columns else f"{rows} x {columns}"

    def grid_of(self, tokens: int, image: Size) -> Size | None:
        """Rows and columns of so many tokens (without the prefix) of an image; None: they fill no grid."""
        if self.fixed or image == self.image:
            return self.grid if self.grid[0] * self.grid[1] == tokens else None
        exact = [now * cells / then for now, cells, then in zip(image, self.grid, self.image, strict=True)]
        return filled(tokens, exact[0], exact[1])


def filled(tokens: int, rows: float, columns: float) -> Size | None:
    """The grid of so many tokens that has about so many rows and columns; None: there is none, or several.

    What does not go into whole cells is cut off or padded, so each side is within one of what it should be.
    """
    found = [
        (row, tokens // row)
        for row in {math.floor(rows), math.ceil(rows)}
        if row > 0 and tokens % row == 0 and tokens and abs(tokens // row - columns) < 1
    ]
    return found[0] if len(found) == 1 else None


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
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            output = output[0]  # as blocks of transformers give their tokens, before attentions and sizes
        if not isinstance(output, Tensor):
            watch.seen[self.index] = output
        elif torch.compiler.is_compiling() or output.is_inference():  # neither tells versions
            watch.seen[self.index] = output.clone()
        else:
            watch.returned[self.index] = (output, output._version)
            watch.seen[self.index] = output if self.kept[watch.training] else output.clone()


def layout_of(
    shape: Shape, image: Shape, larger: Shape | None = None, known: Layout | None = None
) -> Layout | None:
    """How a feature is laid out; None: it is no feature, or nothing tells.

    Args:
        shape: the feature's.
        image: that of the images it is of, (N, C, H, W).
        larger: its shape for images of another size, which is what tells where a shape alone does not (of
            C = H = W, say).
        known: what the network says of itself; asked last.
    """
    if len(shape) not in (3, 4) or shape[0] != image[0]:
        return None
    grown = [index for index in range(1, len(shape)) if larger is not None and larger[index] != shape[index]]
    if len(shape) == 3:
        return "NCL" if grown == [2] else "NLC" if grown == [1] else known or "NLC"
    # Which two neighbouring dimensions have the sides of the image; a side is rounded, hence "nearly".
    first, last = (abs(a * image[3] - b * image[2]) < max(image[2:]) for a, b in (shape[1:3], shape[2:]))
    if grown:
        first, last = 3 not in grown, 1 not in grown
    if first == last:
        return known
    return "NCHW" if last else "NHWC"


def undecided(shapes: Sequence[Shape | None], image: Shape) -> bool:
    """Whether images of another size have to tell how a feature is laid out."""
    return any(shape is not None and (len(shape) == 3 or layout_of(shape, image) is None) for shape in shapes)


def grid_of(
    tokens: int,
    image: Size,
    larger: int | None,
    tap: TapOptions,
    prefix: int | None,
    stride: int | None,
) -> tuple[int, Size] | None:
    """How many tokens come first, and rows and columns of the others; None: nothing tells, or not everything
    that tells says the same.

    Args:
        tokens: how many there are in all.
        image: height and width of the images they are of.
        larger: how many there are for images of twice the height and three times the width, if that is known.
        tap: what its options say.
        prefix: what the network says of itself.
        stride: how many of the image's rows and columns a token stands for, if the network says so.
    """
    if tap.grid is not None:
        first = tokens - tap.grid[0] * tap.grid[1]
        return (first, tap.grid) if first >= 0 and tap.prefix in (None, first) else None
    if tap.prefix is not None:
        told = [{tap.prefix}]
    else:
        told = [set() if prefix is None else {prefix}]
        if stride is not None:
            cells = [math.prod(f(side / stride) for side in image) for f in (math.ceil, math.floor)]
            told.append(next(({tokens - count} for count in cells if count <= tokens), set()))
        if larger is not None and larger != tokens:  # six times the cells, and as many tokens before them
            told.append({tokens - (larger - tokens) // 5} if (larger - tokens) % 5 == 0 else set())
    fit = [{first for first in firsts if _grid(tokens - first, image)} for firsts in told]
    common = set.intersection(*(firsts for firsts in fit if firsts)) if any(fit) else set()
    if len(common) != 1:
        return None
    (first,) = common
    found = _grid(tokens - first, image)
    return None if found is None or first < 0 else (first, found)


def _grid(tokens: int, image: Size) -> Size | None:
    """The grid of so many tokens whose cells are as square as its pixels."""
    rows = math.sqrt(max(tokens, 0) * image[0] / image[1])
    return filled(tokens, rows, rows * image[1] / image[0])


def sizes_of(shape: Shape, layout: Layout) -> tuple[int, Size | None]:
    """Channels, and height and width where there are any."""
    if layout == "NCHW":
        return shape[1], (shape[2], shape[3])
    if layout == "NHWC":
        return shape[3], (shape[1], shape[2])
    return shape[2] if layout == "NLC" else shape[1], None
