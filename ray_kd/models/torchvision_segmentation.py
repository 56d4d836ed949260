"""torchvision's segmentation networks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from ray_kd.config.errors import UserError, nearest
from ray_kd.config.registry import MODELS
from ray_kd.models.backbone import Backbone
from ray_kd.models.base import LibraryCall, State
from ray_kd.models.tapped import TappedModel, adapt_stem
from ray_kd.models.taps import TapOptions, TappedOptions
from ray_kd.models.torchvision_classifier import build
from ray_kd.models.weights import begin_with, torchvision_weights
from ray_kd.outputs import Outputs

SMALL = ("deeplabv3_resnet18", "deeplabv3_resnet34", "fcn_resnet18", "fcn_resnet34")
"""The same heads on backbones that torchvision itself does not combine them with."""


class TorchvisionSegmentationOptions(TappedOptions):
    """Options of torchvision's segmentation networks."""

    arch: str
    """Its name in torchvision (deeplabv3_resnet101, fcn_resnet50, lraspp_mobilenet_v3_large ...), or
    deeplabv3 or fcn on resnet18 or resnet34."""
    backbone_weights: str | None = None
    """What the backbone begins with: a name that torchvision publishes for it (IMAGENET1K_V1), or a file of
    that classifier's weights; None: as drawn."""
    taps: tuple[str | TapOptions, ...] | None = None
    """Paths of the modules that are its stages, shallow to deep; None: the backbone's four."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of torchvision's builder."""
    files: ClassVar[tuple[str, ...]] = ("weights", "backbone_weights")


@MODELS.register("torchvision_segmentation", source="torchvision.models.segmentation")
class TorchvisionSegmentation(TappedModel):
    """DeepLabV3, FCN and LR-ASPP of torchvision, their weights under torchvision's names.

    Logits are at the network's own resolution (an eighth of the image); torchvision enlarges them.
    Without the auxiliary head. On resnet18 and resnet34, layers 3 and 4 are dilated instead of strided
    as torchvision does it for bottlenecks (in the first block of a layer the dilation before it).
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    surplus: ClassVar[tuple[str, ...]] = ("aux_classifier.",)
    Options = TorchvisionSegmentationOptions

    def __init__(self, options: TorchvisionSegmentationOptions, classes: int, channels: int) -> None:
        arch = options.arch
        net = _build(arch, classes, options.arguments)
        adapted = adapt_stem(net, channels)
        super().__init__(net, default_taps(arch) if options.taps is None else options.taps, f"model {arch}")
        self.arch = arch
        given = {"weights": None, "weights_backbone": None, "num_classes": classes, **options.arguments}
        self._call = LibraryCall(
            "torchvision.models.get_model", {"name": arch, **given}, channels if adapted else None
        )
        lraspp = arch.startswith("lraspp")
        last = ("low_classifier", "high_classifier") if lraspp else (str(len(net.classifier) - 1),)  # type: ignore[arg-type]
        self.last_layers = tuple(f"classifier.{name}" for name in last)
        self.measure(channels, 64)
        if options.backbone_weights is not None:
            key = options.weights_key if options.weights is None else None
            part, classifier = net.get_submodule("backbone"), arch.partition("_")[2]
            backbone = Backbone(part, classifier, "model torchvision_segmentation")
            begin_with(backbone, options.backbone_weights, key=key)

    def predict(self, image: Tensor) -> Outputs:
        backbone, classifier = self.net.get_submodule("backbone"), self.net.get_submodule("classifier")
        features = backbone(image)
        return Outputs(logits=classifier(features if self.arch.startswith("lraspp") else features["out"]))

    def library_call(self) -> LibraryCall | None:
        return None if self.arch in SMALL else self._call

    def published(self, weights: str) -> Callable[[], State]:
        if self.arch in SMALL:
            like = nearest(self.arch, [arch for arch in architectures() if arch not in SMALL])
            raise UserError(
                f"model torchvision_segmentation: weights: nobody publishes '{weights}' for {self.arch}: "
                f"expected a file, or arch: {like}, which has some. backbone_weights: IMAGENET1K_V1 begins "
                "with ImageNet's."
            )
        return torchvision_weights(self.arch, weights, "model torchvision_segmentation")


def architectures() -> list[str]:
    """Names of the architectures that this model knows."""
    from torchvision import models

    return sorted([*models.list_models(module=models.segmentation), *SMALL])


def default_taps(arch: str) -> tuple[str, ...]:
    """The backbone's stages."""
    names = ("3", "6", "12", "15") if "mobilenet" in arch else ("layer1", "layer2", "layer3", "layer4")
    return tuple(f"backbone.{name}" for name in names)


def _build(arch: str, classes: int, arguments: dict[str, Any]) -> nn.Module:
    if arch not in SMALL:
        given = {"num_classes": classes, "weights_backbone": None, **arguments}
        return build(arch, architectures(), given, "model torchvision_segmentation")
    from torchvision import models
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    kind, _, name = arch.partition("_")
    net = models.get_model(name, weights=None)
    dilate(net.layer3, 1, 2)
    dilate(net.layer4, 2, 4)
    backbone = models._utils.IntermediateLayerGetter(net, {"layer4": "out"})
    made = (
        DeepLabV3(backbone, DeepLabHead(512, classes))
        if kind == "deeplabv3"
        else FCN(backbone, FCNHead(512, classes))
    )
    return cast(nn.Module, made)


def dilate(layer: nn.Sequential, first: int, rest: int) -> None:
    """Undo the stride of a layer of basic blocks: dilation ``first`` in its first block, then ``rest``."""
    for index, block in enumerate(layer):
        rate = rest if index else first
        for part in block.modules():
            if isinstance(part, nn.Conv2d):
                part.stride = (1, 1)
                if part.kernel_size == (3, 3):
                    part.dilation = part.padding = (rate, rate)
