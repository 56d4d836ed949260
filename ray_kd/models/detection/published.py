"""Published weights of detectors: the rows of the classes that COCO uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ray_kd.models.base import State

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
