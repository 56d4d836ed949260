"""torchvision's classifiers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from ray_kd.config.errors import UserError, unknown
from ray_kd.config.registry import MODELS
from ray_kd.models.base import LibraryCall, State
from ray_kd.models.tapped import TappedModel, adapt_stem, last_linear
from ray_kd.models.taps import TapOptions, TappedOptions
from ray_kd.models.weights import torchvision_weights
from ray_kd.outputs import Layout

TAPS = {
    "resnet": ("layer1", "layer2", "layer3", "layer4"),
    "resnext": ("layer1", "layer2", "layer3", "layer4"),
    "wide_resnet": ("layer1", "layer2", "layer3", "layer4"),
    "regnet": tuple(f"trunk_output.block{i}" for i in (1, 2, 3, 4)),
    "densenet": tuple(f"features.denseblock{i}" for i in (1, 2, 3, 4)),
    "mobilenet_v2": ("features.3", "features.6", "features.13", "features.17"),
    "mobilenet_v3_large": ("features.3", "features.6", "features.12", "features.15"),
    "mobilenet_v3_small": ("features.1", "features.3", "features.8", "features.11"),
    "shufflenet_v2": ("stage2", "stage3", "stage4"),
    "efficientnet_b": ("features.2", "features.3", "features.5", "features.7"),
    "efficientnet_v2_s": ("features.2", "features.3", "features.5", "features.6"),
    "efficientnet_v2": ("features.2", "features.3", "features.5", "features.7"),
    "convnext": ("features.1", "features.3", "features.5", "features.7"),
    "maxvit": ("blocks.0", "blocks.1", "blocks.2", "blocks.3"),
    "swin": ("features.1", "features.3", "features.5", "features.7"),
    "vit": tuple(f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)),
    "vit_l": tuple(f"encoder.layers.encoder_layer_{i}" for i in (5, 11, 17, 23)),
    "vit_h": tuple(f"encoder.layers.encoder_layer_{i}" for i in (7, 15, 23, 31)),
}
"""Default taps by the beginning of an architecture's name, the longest that fits: the last block of each
resolution (of transformers without resolutions: every quarter)."""
UNFIT = ("googlenet", "inception_v3")
"""Architectures that have auxiliary heads and return several logits."""


class TorchvisionOptions(TappedOptions):
    """Options of torchvision's classifiers."""

    arch: str
    """Its name in torchvision: resnet34, mobilenet_v3_large, convnext_tiny, vit_b_16 ..."""
    taps: tuple[str | TapOptions, ...] | None = None
    """Paths of the modules that are its stages, shallow to deep (layer2, features.5.1), or mappings that say
    which call ({module: layer2.0.relu, call: 1}); None: those of its family, docs/models.md."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of torchvision's builder (image_size of a vit, stochastic_depth_prob ...)."""


@MODELS.register("torchvision", source="torchvision.models")
class TorchvisionClassifier(TappedModel):
    """A classifier of torchvision, its modules' outputs as taps, its weights under torchvision's names.

    For images of other than three channels the first convolution is drawn anew. The network is
    torchvision's, made for photographs: ``resnet``, ``cifar_resnet`` and their like are for 32x32 images.
    Tokens of a ViT and channels-last maps of a Swin are brought to (N, C, H, W), class token aside.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    Options = TorchvisionOptions

    def __init__(self, options: TorchvisionOptions, classes: int, channels: int) -> None:
        arch = options.arch
        net = build(arch, classifiers(), {"num_classes": classes, **options.arguments}, "model torchvision")
        adapted = adapt_stem(net, channels)
        super().__init__(net, default_taps(arch) if options.taps is None else options.taps, f"model {arch}")
        self.arch = arch
        arguments = {"name": arch, "weights": None, "num_classes": classes, **options.arguments}
        self._call = LibraryCall("torchvision.models.get_model", arguments, channels if adapted else None)
        self.last_layers = last_linear(net)
        self.measure(channels, int(options.arguments.get("image_size", 224)))

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The linear layer on the pooled last stage, of those families that have nothing between."""
        if self.taps and self.taps[-1].module == "layer4":
            return self.net.get_submodule("fc")
        raise AttributeError(f"{self.arch} has no linear head on the pooled last tap")

    def known_layout(self) -> Layout | None:
        if self.arch.startswith("vit"):
            return "NLC"
        return "NHWC" if self.arch.startswith("swin") else "NCHW"

    def known_prefix(self) -> int | None:
        return 1 if self.arch.startswith("vit") else None

    def library_call(self) -> LibraryCall:
        return self._call

    def published(self, weights: str) -> Callable[[], State]:
        return torchvision_weights(self.arch, weights, "model torchvision")


def classifiers() -> list[str]:
    """Names of the architectures that this model knows."""
    from torchvision import models  # three seconds of import, only where it is used

    return [name for name in models.list_models(module=models) if name not in UNFIT]


def build(arch: str, known: list[str], arguments: dict[str, Any], where: str) -> nn.Module:
    """An architecture of torchvision without weights.

    Raises:
        UserError: unknown architecture, or an argument that its builder does not take.
    """
    from torchvision import models

    if arch not in known:
        raise unknown("arch", arch, known, where)
    try:
        try:
            net: nn.Module = models.get_model(arch, weights=None, **arguments)
        except NotImplementedError:  # RegNet computes its widths with tensors, which meta has none of
            with torch.device("cpu"):
                net = models.get_model(arch, weights=None, **arguments).to("meta")
    except (TypeError, ValueError) as error:
        # The architecture is known by now and nothing is read from disk, so what is left for the builder
        # to refuse is what it was given: names it does not take, and values.
        raise UserError(f"{where}: {arch}: arguments: {error}.") from error
    return net


def default_taps(arch: str) -> tuple[str, ...]:
    """The taps of an architecture's family; none where it is not known."""
    families = [family for family in TAPS if arch.startswith(family)]
    return TAPS[max(families, key=len)] if families else ()
