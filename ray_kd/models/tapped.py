"""Any network, with the feature maps of modules that are named by their path as its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ray_kd.config.errors import UserError, nearest
from ray_kd.models.base import StagedModel
from ray_kd.outputs import Outputs, as_outputs


class Tap:
    """A forward hook that keeps what a module gives.

    An object with its place in ``seen``, not a closure: copied with the network, it belongs to the copy.
    """

    def __init__(self, name: str, seen: dict[str, Tensor]) -> None:
        self.name, self.seen = name, seen

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen[self.name] = output


class TappedModel(StagedModel):
    """A network of any make, ``net``, whose named modules are the stages.

    Its weights are saved and loaded under the network's own names, so that what is exported loads into
    that network without ray-kd.

    Args:
        net: returns logits, a mapping with ``out``, or Outputs.
        taps: paths of modules in ``net``, shallow to deep; empty: the features of its Outputs, if any.
        where: the key that names them, for messages.
    """

    def __init__(self, net: nn.Module, taps: Sequence[str], where: str) -> None:
        super().__init__()
        self.net, self.taps, self.where = net, tuple(taps), where
        self._seen: dict[str, Tensor] = {}
        modules = dict(net.named_modules())
        for tap in self.taps:
            if tap not in modules or not tap:
                raise UserError(_no_such_module(tap, modules, where))
            modules[tap].register_forward_hook(Tap(tap, self._seen))
        if len(set(self.taps)) < len(self.taps):
            raise UserError(f"{where}: taps must be distinct, got {list(self.taps)}.")

    def forward(self, image: Tensor) -> Outputs:
        """Outputs for a batch of images (N, C, H, W)."""
        self._seen.clear()
        outputs = self.answer(image)
        if self.taps:
            missing = [tap for tap in self.taps if tap not in self._seen]
            if missing:
                raise UserError(f"{self.where}: module '{missing[0]}' took no part in the forward pass.")
            features = [self._seen.pop(tap) for tap in self.taps]
            outputs.features = tuple(self.as_map(*pair) for pair in zip(self.taps, features, strict=True))
        return outputs

    def answer(self, image: Tensor) -> Outputs:
        """What the network gives, its features aside."""
        return as_outputs(self.net(image), self.where)

    def as_map(self, tap: str, feature: Any) -> Tensor:
        """What a module gave as a feature map (N, C, H, W)."""
        if not isinstance(feature, Tensor) or feature.dim() != 4:
            shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
            raise UserError(
                f"{self.where}: module '{tap}' gives {shape}, expected a feature map (N, C, H, W)."
            )
        return feature

    def measure(self, channels: int, size: int) -> Outputs:
        """Count the stages' channels by a forward pass without memory, on the meta device.

        Args:
            channels: of an image.
            size: its height and width; no number of channels depends on it.

        Returns:
            The outputs, on the meta device.

        Raises:
            UserError: a tap took no part, or gives no feature map.
        """
        was_training = self.training
        self.eval()
        tensors = [*self.named_parameters(), *self.named_buffers()]
        bare = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
        try:
            with torch.no_grad():
                try:
                    image = torch.empty(1, channels, size, size, device="meta")
                    outputs: Outputs = functional_call(self, bare, (image,))
                except (NotImplementedError, RuntimeError):
                    # A network that cannot do without values: an operator that meta tensors do not have is
                    # the first, a value that is asked for (item(), a shape that depends on one) the second.
                    # A mistake of the network's own is a RuntimeError too, and comes again from here.
                    outputs = self(torch.zeros(1, channels, size, size))
        finally:
            self._seen.clear()
            self.train(was_training)
        self.stage_channels = tuple(feature.shape[1] for feature in outputs.features)
        return outputs

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own."""
        return self.net.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in state if name.startswith(prefix)]:
            state[f"{prefix}net.{name.removeprefix(prefix)}"] = state.pop(name)
        super()._load_from_state_dict(state, prefix, *rest)


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


def adapt_stem(net: nn.Module, channels: int) -> None:
    """Give the first convolution the number of channels that images have, its weights drawn anew."""
    name, first = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    if first.in_channels == channels:
        return
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
