"""What a student or a teacher offers: a feature map for each stage, and logits."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.options import ModelOptions, Options
from ray_kd.outputs import Outputs

State = dict[str, Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """What images a network's weights were trained on.

    Attributes:
        mean: of each channel, of images in [0, 1].
        std: their standard deviation.
        size: height and width; None: not said.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f" of {self.size[0]} x {self.size[1]}"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"images{size}, mean {mean}, deviation {std}"


@dataclass(frozen=True)
class LibraryCall:
    """How a library builds the same network without ray-kd: whoever has the weights can load them there.

    Attributes:
        function: its full name, torchvision.models.get_model.
        arguments: what it is called with, by name; JSON. ``config``, a mapping, becomes a configuration of
            transformers.
        channels: of an image, where the first convolution is another than the library's; None: it is not.
    """

    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    channels: int | None = None


class StagedModel(nn.Module):
    """The base of registered models: a stem, stages in sequence, a head on the pooled last stage.

    Attributes:
        stages: modules in sequence; the feature map after each one is a tap.
        stage_channels: channels after each stage.
        neck: layers between the last tap and the pooling, where there are some.
        head: pooled features (N, C) -> logits (N, K).

    Example:
        >>> from torch import nn
        >>> from ray_kd.plugin import ModelOptions, StagedModel, create_model, register_model
        >>> class ExampleOptions(ModelOptions):
        ...     width: int = 4
        >>> @register_model("example_net")
        ... class Example(StagedModel):
        ...     Options = ExampleOptions
        ...     def __init__(self, options, classes, channels):
        ...         super().__init__()
        ...         self.stage_channels = (options.width,)
        ...         self.stages = nn.Sequential(nn.Conv2d(channels, options.width, 3))
        ...         self.head = nn.Linear(options.width, classes)
        >>> create_model("example_net", classes=10, channels=3, width=8).stage_channels
        (8,)
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    """Names of the tasks that it has a head for."""
    Options: ClassVar[type[Options]] = ModelOptions
    last_layers: tuple[str, ...] = ("head",)
    """Modules, by name, whose size is the number of classes: what ``head: fresh`` leaves as drawn."""
    sized: ClassVar[bool] = False
    """Whether it takes the size of its images ((height, width) or None) after options, classes, channels."""
    surplus: ClassVar[tuple[str, ...]] = ()
    """Prefixes of names that published weights have and this network does without."""
    stages: nn.Sequential
    stage_channels: tuple[int, ...]
    neck: nn.Module
    head: nn.Module

    def forward(self, image: Tensor) -> Outputs:
        """Outputs for a batch of images (N, C, H, W)."""
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        neck = getattr(self, "neck", None)
        if neck is not None:
            image = neck(image)
        return Outputs(tuple(features), self.head(image.mean(dim=(2, 3))))

    def predict_extra(self, names: Set[str]) -> None:
        """Give those entries of ``Outputs.extra`` in training that a run's paths read, where it has them."""

    def own_weights(self, place: str) -> State | None:
        """The weights in a folder of the format of the network's library, if that is what lies there."""
        return None

    def raw(self, image: Tensor) -> Outputs:
        """The tensors alone, as an exported student gives them: no head that reads them, no suppression."""
        return self(image)

    def library_call(self) -> LibraryCall | None:
        """How to build this network, under these names of weights, without ray-kd; None: nobody else does."""
        return None

    def published(self, weights: str) -> Callable[[], State]:
        """How to get the published weights of that name; nothing is fetched before it is called.

        Raises:
            UserError: there are none of that name.
        """
        raise UserError(
            f"model '{self.name}': weights: nobody publishes '{weights}' for it; expected a file "
            "(.safetensors, .pt, .pth) or null. Models 'torchvision' and 'torchvision_segmentation' know "
            "torchvision's names."
        )

    @classmethod
    def preprocessing(cls, options: Any, weights: str | None = None) -> Preprocessing | None:
        """What images the weights in ``weights`` or its options were trained on; None: nobody says."""
        return None


def stage_channels(model: nn.Module) -> tuple[int, ...]:
    """Channels of each of a network's feature maps; none where it shows none, which some paths refuse."""
    return tuple(getattr(model, "stage_channels", ()))
