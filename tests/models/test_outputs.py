"""What networks return, as people's networks give it: taken as Outputs, or refused with what it was."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import GoogLeNetOutputs, InceptionOutputs

from ray_kd import Outputs, as_map
from ray_kd.config.errors import UserError
from ray_kd.outputs import as_outputs

SCORES, OTHERS = torch.randn(2, 5), torch.randn(2, 5)
MAPS = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
DENSE, AUXILIARY = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 4, 4)


@pytest.mark.parametrize(
    ("found", "logits", "features"),
    [
        (SCORES, SCORES, []),
        (Outputs(tuple(MAPS), SCORES), SCORES, MAPS),
        ({"logits": SCORES}, SCORES, []),
        (OrderedDict(out=DENSE, aux=AUXILIARY), DENSE, []),
        (SimpleNamespace(logits=SCORES, hidden_states=None), SCORES, []),
        (GoogLeNetOutputs(SCORES, OTHERS, OTHERS), SCORES, []),
        (InceptionOutputs(SCORES, OTHERS), SCORES, []),
        ((SCORES,), SCORES, []),
        ((SCORES, MAPS), SCORES, MAPS),
        ((tuple(MAPS), SCORES), SCORES, MAPS),
        (MAPS, None, MAPS),
        ([MAPS[0], *MAPS], None, [MAPS[0], *MAPS]),
    ],
)
def test_what_has_one_reading_is_taken(found: Any, logits: Tensor | None, features: list[Tensor]) -> None:
    outputs = as_outputs(found, "student")
    assert outputs.logits is logits
    assert list(outputs.features) == features


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "got NoneType"),
        ((SCORES, OTHERS), r"got tuple of 2 \(\[2, 5\], \[2, 5\]\): wrap it, and return Outputs"),
        ([DENSE, AUXILIARY], r"got list of 2 \(\[2, 5, 8, 8\], \[2, 5, 4, 4\]\)"),  # deep supervision
        ((SCORES, MAPS, MAPS), "got tuple of 3"),
        ((DENSE, MAPS[1]), r"got tuple of 2 \(\[2, 5, 8, 8\], \[2, 6, 4, 4\]\)"),
        ([DENSE], r"got list of 1 \(\[2, 5, 8, 8\]\)"),  # scores, or features_only with one stage
        ([*MAPS, MAPS], "got list of 3"),
        ((SCORES, {"loss": 1}), r"\(\[2, 5\], dict\)"),
        ([], "got list of 0"),
        ({"last_hidden_state": MAPS[0]}, "got a mapping with last_hidden_state"),
        (SimpleNamespace(logits=None), "got SimpleNamespace"),
    ],
)
def test_what_has_none_or_several_is_refused(found: Any, says: str) -> None:
    with pytest.raises(UserError, match=f"^student: expected a network that returns logits.*{says}"):
        as_outputs(found, "student")


def test_tokens_come_to_maps_by_hand() -> None:
    maps = torch.randn(2, 6, 3, 4)
    tokens = torch.cat([torch.zeros(2, 2, 6), maps.flatten(2).mT], dim=1)
    assert torch.equal(as_map(tokens, prefix=2, grid=(3, 4)), maps)
    assert torch.equal(as_map(maps.flatten(2), "NCL", grid=(3, 4)), maps)
    assert torch.equal(as_map(maps.movedim(1, 3), "NHWC"), maps)
    assert as_map(maps, "NCHW") is maps
    with pytest.raises(UserError, match="expected 4 x 4 tokens after prefix 0, got 14: say how many"):
        as_map(tokens)
    with pytest.raises(UserError, match=r"expected \(N, L, C\).*got \(2, 6, 3, 4\)"):
        as_map(maps)


def test_what_libraries_return() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet18", features_only=True)
    outputs = as_outputs(net(torch.randn(2, 3, 32, 32)), "teacher")
    assert [feature.shape[1] for feature in outputs.features] == net.feature_info.channels()
    assert outputs.logits is None
