"""Published weights of detectors: the classes that COCO uses, and backbones of ImageNet's classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ray_kd.models.base import State
from ray_kd.models.tapped import TappedModel
from ray_kd.models.weights import torchvision_weights

NUMBERS, USED = 91, 80
"""COCO numbers its categories up to 90, and uses 80 of those numbers."""


def of_coco(state: State, last_layers: Sequence[str], classes: int, background: int) -> State:
    """Weights for COCO's 91 numbers as those for its 80 classes in their order, where so many are asked for.

    Args:
        state: weights by name.
        last_layers: modules with rows for each number.
        classes: how many the network tells apart, the background aside.
        background: 1 where the first row is the background's and stays.
    """
    if classes != USED:
        return state
    from torchvision.models._meta import _COCO_CATEGORIES

    unused = ("__background__", "N/A")
    rows = [*range(background), *(i for i, name in enumerate(_COCO_CATEGORIES) if name not in unused)]
    found = dict(state)
    for name, value in state.items():
        if name.rpartition(".")[0] in last_layers:
            # Anchors lie outside the classes, a box's four sides within.
            inner = 4 if name.rpartition(".")[0].endswith("bbox_pred") else 1
            blocks = value.reshape(-1, NUMBERS, inner, *value.shape[1:])
            found[name] = blocks[:, torch.tensor(rows)].flatten(0, 2).contiguous()
    return found


class Body(TappedModel):
    """The backbone of a detector as the classifier that its weights were published for.

    Args:
        body: the backbone below its pyramid.
        arch: the detector's.
    """

    surplus: ClassVar[tuple[str, ...]] = ("fc.", "classifier.")

    def __init__(self, body: nn.Module, arch: str) -> None:
        super().__init__(body, (), "backbone_weights")
        self.arch = arch.partition("_")[2].removesuffix("_fpn")
        self.before = "features." if self.arch.startswith("mobilenet") else ""
        norms = [name for name in body.state_dict() if name.endswith("running_mean")]
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
        return torchvision_weights(self.arch, weights, "model torchvision_detector: backbone_weights")
