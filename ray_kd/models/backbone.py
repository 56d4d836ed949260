"""The backbone of a torchvision network begins with a classifier's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from ray_kd.models.base import State
from ray_kd.models.tapped import TappedModel
from ray_kd.models.weights import torchvision_weights


class Backbone(TappedModel):
    """The backbone of a network as the classifier that its weights were published for.

    Args:
        net: the backbone alone.
        arch: the classifier's name in torchvision.
        where: the network, for messages.
    """

    surplus: ClassVar[tuple[str, ...]] = ("fc.", "classifier.")

    def __init__(self, net: nn.Module, arch: str, where: str) -> None:
        super().__init__(net, (), f"{where}: backbone_weights")
        self.arch = arch
        self.before = "features." if self.arch.startswith("mobilenet") else ""
        norms = [name for name in net.state_dict() if name.endswith("running_mean")]
        self.counters = {
            name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in norms
        }

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Under the classifier's names, with the counters that frozen norms do without."""
        own = super().state_dict(*args, **kwargs)
        return {f"{self.before}{name}": value for name, value in {**self.counters, **own}.items()}

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        own = self.net.state_dict()
        named = {name.removeprefix(self.before): value for name, value in state_dict.items()}
        return self.net.load_state_dict({name: value for name, value in named.items() if name in own})

    def published(self, weights: str) -> Callable[[], State]:
        return torchvision_weights(self.arch, weights, self.where)
