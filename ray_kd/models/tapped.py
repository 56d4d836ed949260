"""Any network, with the feature maps of modules that are named by their path as its stages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError, nearest
from ray_kd.config.validation import validate
from ray_kd.models.base import StagedModel
from ray_kd.models.blank import ask_on_meta, in_mode
from ray_kd.models.compiled import MARK, is_compiled, uncompiled
from ray_kd.models.taps import (
    Described,
    Shape,
    Size,
    Tap,
    TapOptions,
    Watch,
    grid_of,
    layout_of,
    sizes_of,
    undecided,
)
from ray_kd.outputs import WORDS, Layout, Outputs, as_map, as_outputs

BATCH = 2
"""Images in the blank batch that a network is measured with."""


class TappedModel(StagedModel):
    """A network of any make, ``net``, whose named modules are the stages.

    Its weights are saved and loaded under the network's own names, so that what is exported loads into
    that network without ray-kd.

    Args:
        net: returns logits, a mapping with ``out``, or Outputs.
        taps: modules in ``net``, shallow to deep, by their paths; empty: the features of its Outputs, if any.
        where: the key that names them, for messages.

    Attributes:
        described: what ``measure`` found out about each tap.
    """

    def __init__(
        self, net: nn.Module, taps: Sequence[str | Mapping[str, Any] | TapOptions], where: str
    ) -> None:
        super().__init__()
        options = [_options(tap, where) for tap in taps]
        self.net, self.taps, self.where = net, tuple(options), where
        self.described: tuple[Described, ...] = ()
        self._watch = Watch()
        modules = {n.replace(MARK, ""): part for n, part in net.named_modules(remove_duplicate=False)}
        self._hooks = [Tap(index, tap.call, self._watch) for index, tap in enumerate(options)]
        for tap, hook in zip(options, self._hooks, strict=True):
            if tap.module not in modules or not tap.module:
                raise UserError(_no_such_module(tap.module, modules, where))
            modules[tap.module].register_forward_hook(hook)
        if len(set(options)) < len(options):
            raise UserError(f"{where}: taps must be distinct, got {list(map(str, options))}.")

    def forward(self, image: Tensor) -> Outputs:
        """Outputs for a batch of images (N, C, H, W)."""
        watch = self._watch
        watch.clear()
        watch.on, watch.training = True, self.training
        outputs = self.predict(image)
        watch.on = False
        if self.taps:
            features = self._handed_on()
            if not watch.raw:
                size = (image.shape[2], image.shape[3])
                features = [self.as_map(index, feature, size) for index, feature in enumerate(features)]
                watch.clear()
            outputs.features = tuple(features)
        return outputs

    def _handed_on(self) -> list[Any]:
        """What each tap saw."""
        watch, changed = self._watch, self._watch.changed()
        for index, (tap, hook) in enumerate(zip(self.taps, self._hooks, strict=True)):
            count = watch.calls.get(index, 0)
            if count == 0:
                reason = ": the network was compiled and run before its taps were set; compile it afterwards"
                raise UserError(
                    f"{self.where}: module '{tap.module}' took no part in the forward pass"
                    f"{reason if is_compiled(self.net) else ''}."
                )
            if index not in watch.seen or (tap.call is None and count > 1):
                raise UserError(
                    f"{self.where}: module '{tap.module}' is called {count} times in a forward pass: say "
                    f"which call is the tap, of 0 to {count - 1}: "
                    f"{{module: {tap.module}, call: {min(tap.call or 0, count - 1)}}}."
                )
            if index in changed and hook.kept[watch.training]:
                raise UserError(
                    f"{self.where}: what module '{tap.module}' returned was changed in place afterwards, "
                    "which did not happen when the network was measured; expected the same operations "
                    "for every batch: make the one that changes it work on a copy (inplace=False)."
                )
        return [watch.seen[index] for index in range(len(self.taps))]

    def predict(self, image: Tensor) -> Outputs:
        """What the network gives, its features aside."""
        found = self.net(image)
        if isinstance(found, tuple) and len(found) == 2 and getattr(self.net, "distilled_training", False):
            return Outputs(logits=found[0], extra={"distillation": found[1]})  # the two heads of timm's DeiT
        return as_outputs(found, self.where)

    def predict_extra(self, names: Set[str]) -> None:
        net: Any = self.net
        if hasattr(net, "set_distilled_training"):
            net.set_distilled_training("distillation" in names)

    def raw(self, image: Tensor) -> Outputs:
        return self.predict(image)

    def as_map(self, index: int, feature: Any, image: Size) -> Tensor:
        """What a tap handed on, for images of a height and width, as a feature map (N, C, H, W)."""
        known = self.described[index] if self.described else None
        layout: Layout = known.layout if known is not None else "NCHW"
        if not isinstance(feature, Tensor) or feature.dim() != len(layout):
            shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
            raise UserError(
                f"{self.where}: module '{self.taps[index]}' gives {shape}, expected {WORDS[layout]}."
            )
        if known is None or len(layout) == 4:
            return as_map(feature, layout)
        tokens = feature.shape[layout.index("L")]
        grid = known.grid_of(tokens - known.prefix, image)
        if grid is None:
            raise UserError(
                f"{self.where}: module '{self.taps[index]}' gives {tokens} tokens for an image of "
                f"{image[0]} x {image[1]}, {known.prefix} before the others, which fill no grid; it is "
                f"{known.grid[0]} x {known.grid[1]} for {known.image[0]} x {known.image[1]}."
            )
        return as_map(feature, layout, known.prefix, grid)

    def measure(self, channels: int, size: int | Size) -> Outputs:
        """Find out layout, channels and grid of every tap, with blank images on the meta device.

        Args:
            channels: of an image.
            size: its height and width, or its side; no number of channels depends on it.

        Returns:
            The outputs, on the meta device.

        Raises:
            UserError: a tap took no part, is called more than once, or gives no feature map.
        """
        watch, sides = self._watch, (size, size) if isinstance(size, int) else size
        ask: Callable[[tuple[int, ...]], Any] = partial(ask_on_meta, self)
        watch.raw = True
        try:
            with in_mode(self, training=False), uncompiled(self):
                try:
                    outputs: Outputs = ask((BATCH, channels, *sides))
                except (NotImplementedError, RuntimeError):
                    # A network that cannot do without values: an operator that meta tensors do not have is
                    # the first, a value that is asked for (item(), a shape that depends on one) the second.
                    # A mistake of the network's own is a RuntimeError too, and comes again from here.
                    ask = lambda shape: self(torch.zeros(shape))  # noqa: E731
                    outputs = ask((BATCH, channels, *sides))
                shapes = self._shapes(outputs)
                changed = watch.changed()
                larger: dict[int, Shape | None] = {}
                if undecided(list(shapes.values()), (BATCH, channels, *sides)):
                    try:  # some networks take images of one size only
                        larger = self._shapes(ask((BATCH, channels, 2 * sides[0], 3 * sides[1])))
                    except Exception:
                        larger = self._shapes(None)
        finally:
            watch.raw = watch.on = False
            watch.clear()
        self.described = tuple(
            self._describe(index, shape, larger.get(index), sides) for index, shape in shapes.items()
        )
        self.stage_channels = tuple(tap.channels for tap in self.described)
        trained = self._changed_in_training(channels, sides)
        for hook in self._hooks:
            hook.kept = {False: hook.index not in changed, True: hook.index not in trained}
        return outputs

    def _shapes(self, outputs: Outputs | None) -> dict[int, Shape | None]:
        """By stage, the shape of its feature; without outputs, of those that were reached."""
        if self.taps:
            return self._watch.shapes()
        return {} if outputs is None else {i: tuple(f.shape) for i, f in enumerate(outputs.features)}

    def _changed_in_training(self, channels: int, size: Size) -> set[int]:
        """The taps whose tensors are changed in place while the network trains; all, where nothing tells.

        Asked of a copy without memory, so that neither statistics nor streams of the network notice.
        """
        every = set(range(len(self.taps)))
        if not self.taps or any(parameter.is_meta for parameter in self.parameters()):
            return every
        bare: dict[int, Any] = {
            id(tensor): nn.Parameter(tensor.to("meta"), tensor.requires_grad) for tensor in self.parameters()
        }
        bare |= {id(tensor): torch.empty_like(tensor, device="meta") for tensor in self.buffers()}
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad(), uncompiled(self):
                twin = copy.deepcopy(self, bare)
                twin._watch.raw = True
                twin.train()(torch.empty(BATCH, channels, *size, device="meta"))
        except Exception:
            return every
        return twin._watch.changed()

    def _describe(self, index: int, shape: Shape | None, larger: Shape | None, image: Size) -> Described:
        tap = self.taps[index] if self.taps else TapOptions(module="")
        what = f"module '{tap}'" if self.taps else f"features[{index}] of its Outputs"
        if shape is None:
            raise UserError(f"{self.where}: {what} gives no tensor; expected {WORDS['NCHW']}, or tokens.")
        layout = layout_of(shape, (BATCH, 0, *image), larger, self.known_layout())
        if tap.layout is not None and len(shape) == len(tap.layout) and shape[0] == BATCH:
            layout = tap.layout
        gives = f"{self.where}: {what} gives {shape} for {BATCH} images"
        if layout is None or tap.layout not in (None, layout):
            note = f" of {image[0]} x {image[1]}, which is not {tap.layout}"
            if tap.layout is None:
                unknown = len(shape) == 4 and shape[0] == BATCH
                note = ", and nothing tells which of these are the channels: say layout" if unknown else ""
            raise UserError(f"{gives}{note}; expected {WORDS['NCHW']}.")
        if not self.taps and layout != "NCHW":
            raise UserError(
                f"{gives}, which is {WORDS[layout]}; expected {WORDS['NCHW']}: ray_kd.as_map(feature, "
                f"'{layout}') makes one."
            )
        channels, grid = sizes_of(shape, layout)
        prefix = 0
        if grid is None:
            axis = layout.index("L")
            most = None if larger is None else larger[axis]
            found = grid_of(shape[axis], image, most, tap, self.known_prefix(), self.known_stride(index))
            if found is None:
                raise UserError(
                    f"{gives} of {image[0]} x {image[1]}, which is {WORDS[layout]}, and it is not clear "
                    f"which tokens form a grid: say how many come before it, {{module: {tap.module}, "
                    f"prefix: 1}}, or its rows and columns, {{module: {tap.module}, grid: [4, 4]}}."
                )
            prefix, grid = found
        fixed = tap.grid is not None
        return Described(tap.module, tap.call or 0, layout, channels, prefix, grid, image, fixed)

    def known_layout(self) -> Layout | None:
        """What the network says of its features: timm's have ``output_fmt`` if they are not (N, C, H, W)."""
        layout = getattr(self.net, "output_fmt", None)
        layout = getattr(layout, "value", layout)
        return layout if layout in WORDS else None

    def known_prefix(self) -> int | None:
        """How many tokens come before those of the grid, as the network says: timm's have
        ``num_prefix_tokens``."""
        told = getattr(self.net, "num_prefix_tokens", None)
        return told if isinstance(told, int) else None

    def known_stride(self, index: int) -> int | None:
        """How many of an image's rows and columns a token of a tap stands for, as the network says."""
        return None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own."""
        found = self.net.state_dict(*args, **kwargs)
        for name in [name for name in found if MARK in name]:
            found[name.replace(MARK, "")] = found.pop(name)
        return found

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        names = {name.replace(MARK, ""): name for name in self.net.state_dict()}
        for name in [name for name in state if name.startswith(prefix)]:
            own = name.removeprefix(prefix)
            state[f"{prefix}net.{names.get(own, own)}"] = state.pop(name)
        super()._load_from_state_dict(state, prefix, *rest)


def _options(tap: str | Mapping[str, Any] | TapOptions, where: str) -> TapOptions:
    if isinstance(tap, TapOptions):
        return tap
    return validate(TapOptions, {"module": tap} if isinstance(tap, str) else dict(tap), f"{where}: taps")


def _no_such_module(tap: str, modules: Mapping[str, nn.Module], where: str) -> str:
    names = [name for name in modules if name]
    guess = nearest(tap, names)
    parent, _, _ = tap.rpartition(".")
    parent = parent if parent in modules else ""
    known = ", ".join(name for name, _ in modules[parent].named_children()) or "none"
    hint = f" Did you mean '{guess}'?" if guess else ""
    return f"{where}: no module '{tap}'.{hint} Modules of {parent or 'the network'}: {known}."


def last_linear(net: nn.Module) -> tuple[str, ...]:
    """The last linear or convolutional layer of a classifier, by name: the one that has its classes."""
    names = [name for name, part in net.named_modules() if isinstance(part, (nn.Linear, nn.Conv2d)) and name]
    return tuple(names[-1:])


def adapt_stem(net: nn.Module, channels: int) -> bool:
    """Give the first convolution the number of channels that images have, its weights drawn anew; whether it
    had another."""
    name, first = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    if first.in_channels == channels:
        return False
    new = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, new)
    return True
