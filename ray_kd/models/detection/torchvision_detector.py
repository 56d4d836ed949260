"""torchvision's detectors by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.models.backbone import Backbone
from ray_kd.models.base import LibraryCall, StagedModel, State
from ray_kd.models.detection.fcos import FcosHead
from ray_kd.models.detection.head import Head
from ray_kd.models.detection.published import of_coco
from ray_kd.models.detection.retinanet import RetinaNetHead
from ray_kd.models.detection.two_stage import TwoStageHead
from ray_kd.models.weights import begin_with, torchvision_weights
from ray_kd.outputs import Outputs

Arch = Literal[
    "fcos_resnet18_fpn",
    "fcos_resnet34_fpn",
    "fcos_resnet50_fpn",
    "fcos_resnet101_fpn",
    "retinanet_resnet18_fpn",
    "retinanet_resnet34_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet101_fpn",
    "fasterrcnn_resnet18_fpn",
    "fasterrcnn_resnet34_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet101_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
]

PUBLISHED = (
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
)
"""Those that torchvision publishes weights for."""


class TorchvisionDetectorOptions(ModelOptions):
    """Options of torchvision's detectors."""

    arch: Arch
    """Its name in torchvision, or one of the same make on another ResNet."""
    backbone_weights: str | None = None
    """What the backbone begins with: a name that torchvision publishes for it (IMAGENET1K_V1), or a file of
    that classifier's weights; None: as drawn."""
    frozen_norm: bool = False
    """BatchNorm of the backbone with fixed statistics, as torchvision trains from published weights."""
    proposals: Annotated[int, Field(ge=1)] = 128
    """Of a two-stage teacher: how many of its best proposals paths ask both networks about."""
    files: ClassVar[tuple[str, ...]] = ("weights", "backbone_weights")


@MODELS.register("torchvision_detector", source="torchvision.models.detection")
class TorchvisionDetector(StagedModel):
    """FCOS, RetinaNet and Faster R-CNN of torchvision, weights under torchvision's names; the pyramid's
    levels are the stages.

    Images come as the dataset's views made them, all of one size: torchvision's own resizing and
    normalisation take no part. Classes are numbered without a background. How outputs are read:
    ``FcosHead``, ``RetinaNetHead``, ``TwoStageHead``. Published weights tell COCO's 91 numbers apart; a
    network of 80 classes takes the rows of those that are used, in their order.
    """

    tasks = ("detection",)
    Options = TorchvisionDetectorOptions

    def __init__(self, options: TorchvisionDetectorOptions, classes: int, channels: int) -> None:
        super().__init__()
        if channels != 3:
            raise UserError(f"model torchvision_detector: expected images of 3 channels, got {channels}.")
        self.arch, self.kind, self.kept = options.arch, options.arch.partition("_")[0], options.proposals
        self.classes, self.frozen = classes, options.frozen_norm
        net = _build(options.arch, classes, options.frozen_norm)
        self.backbone = net.backbone
        if self.kind == "fasterrcnn":
            self.rpn, self.roi_heads = net.rpn, net.roi_heads
            self.anchors = net.rpn.anchor_generator
            self.selection = _selection(net.roi_heads)
            self.last_layers = ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred")
        else:
            self.head, self.anchors = net.head, net.anchor_generator
            self.selection = _selection(net)
            self.last_layers = ("head.classification_head.cls_logits",)
        levels = 3 if "mobilenet" in options.arch else 5
        self.stage_channels = (net.backbone.out_channels,) * levels
        if options.backbone_weights is not None:
            key = options.weights_key if options.weights is None else None
            classifier = options.arch.partition("_")[2].removesuffix("_fpn")
            backbone = Backbone(self.backbone.body, classifier, "model torchvision_detector")
            begin_with(backbone, options.backbone_weights, key=key)

    def published(self, weights: str) -> Callable[[], State]:
        if self.arch not in PUBLISHED:
            raise UserError(
                f"model torchvision_detector: weights: nobody publishes '{weights}' for {self.arch}: "
                f"expected a file, or one of {', '.join(PUBLISHED)}. backbone_weights knows ImageNet's."
            )
        get = torchvision_weights(self.arch, weights, "model torchvision_detector")
        return lambda: of_coco(get(), self.last_layers, self.classes, int(self.kind == "fasterrcnn"))

    def library_call(self) -> LibraryCall | None:
        if self.frozen or self.arch not in PUBLISHED:
            return None
        classes = self.classes + int(self.kind == "fasterrcnn")
        arguments = {"name": self.arch, "weights": None, "weights_backbone": None, "num_classes": classes}
        return LibraryCall("torchvision.models.get_model", arguments)

    def raw(self, image: Tensor) -> Outputs:
        """Of Faster R-CNN: of its proposal network, since its second stage is asked about what is left after
        non-maximum suppression."""
        features = list(self.backbone(image).values())
        if self.kind == "fasterrcnn":
            from torchvision.models.detection.rpn import concat_box_prediction_layers

            objectness, regression = concat_box_prediction_layers(*self.rpn.head(features))
            count = features[0].shape[0]
            extra = {
                "objectness": objectness.reshape(count, -1, 1),
                "regression": regression.reshape(count, -1, 4),
            }
            return Outputs(tuple(features), None, extra)
        found = self.head(features)
        extra = {"regression": found["bbox_regression"]}
        if self.kind == "fcos":
            extra["centerness"] = found["bbox_ctrness"]
        return Outputs(tuple(features), found["cls_logits"], extra)

    def forward(self, image: Tensor) -> Outputs:
        from torchvision.models.detection.image_list import ImageList

        outputs = self.raw(image)
        features, size = outputs.features, (image.shape[2], image.shape[3])
        priors = self.anchors(ImageList(image, [size]), list(features))[0]
        about: tuple[Any, ...] = (tuple((f.shape[2], f.shape[3]) for f in features), priors, size)
        if self.kind != "fasterrcnn":
            head: Head = (FcosHead if self.kind == "fcos" else RetinaNetHead)(*about, **self.selection)
            outputs.head = head
            return outputs
        stages = TwoStageHead(self.rpn, self.roi_heads, *about, **self.selection)
        outputs.head = stages
        if not self.training:
            outputs.extra["proposals"] = stages.proposals(outputs, self.kept)
        return outputs


def _build(arch: str, classes: int, frozen_norm: bool) -> Any:
    """torchvision's network, weights freshly drawn; composed here as torchvision's own builders do."""
    from torchvision import models
    from torchvision.models import detection
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from torchvision.ops.misc import FrozenBatchNorm2d

    kind, _, rest = arch.partition("_")
    name = rest.removesuffix("_fpn")
    body = models.get_model(
        name, weights=None, norm_layer=FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    )
    if name.startswith("mobilenet"):
        sizes = ((32, 64, 128, 256, 512),) * 3
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
        backbone = _mobilenet_extractor(body, True, 6)
        return detection.FasterRCNN(
            backbone, classes + 1, rpn_anchor_generator=anchors, rpn_score_thresh=0.05
        )
    if kind == "fasterrcnn":
        return detection.FasterRCNN(_resnet_fpn_extractor(body, 5), classes + 1)
    backbone = _resnet_fpn_extractor(body, 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return (detection.FCOS if kind == "fcos" else detection.RetinaNet)(backbone, classes)


def _selection(net: Any) -> dict[str, Any]:
    return {
        "least_score": cast(float, net.score_thresh),
        "overlap": cast(float, net.nms_thresh),
        "most": cast(int, net.detections_per_img),
    }
