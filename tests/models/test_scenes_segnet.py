"""The scenes' segmentation network."""

from __future__ import annotations

import pytest
import torch

from ray_kd.models import create_model


@pytest.mark.parametrize("size", [(32, 32), (30, 45)])
def test_taps_are_four_stages_and_logits_lie_at_half_the_resolution(size: tuple[int, int]) -> None:
    model = create_model("scenes_segnet", classes=11, channels=3, width=4)
    outputs = model(torch.randn(2, 3, *size))
    assert [feature.shape[1] for feature in outputs.features] == [4, 6, 8, 12] == list(model.stage_channels)
    for feature, stride in zip(outputs.features, (1, 2, 4, 8), strict=True):
        assert list(feature.shape[2:]) == [-(-length // stride) for length in size]
    assert outputs.logits.shape == (2, 11, *outputs.features[1].shape[2:])


def test_every_stage_and_every_weight_counts() -> None:
    model = create_model("scenes_segnet", classes=11, channels=1, width=4)
    outputs = model(torch.randn(2, 1, 32, 32))
    gradients = torch.autograd.grad(
        outputs.logits.square().sum(), [*outputs.features, *model.parameters()], allow_unused=True
    )
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_weights_are_drawn_from_the_seed() -> None:
    one, same, other = (
        create_model("scenes_segnet", classes=11, channels=3, seed=seed).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["stages.0.0.weight"], other["stages.0.0.weight"])
