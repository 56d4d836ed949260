"""Views of batches: pure functions of (seed, sample, view); labels follow the mixture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import VIEWS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import TensorSplit
from ray_kd.data.batches import Batches
from ray_kd.data.mixing import beta, partners
from ray_kd.outputs import Outputs
from ray_kd.paths import create_path
from ray_kd.tasks.classification import Classification, ClassificationOptions
from ray_kd.training.preflight import check_task
from tests.data.view_scene import CLASSES, EVERYTHING, MEAN, STD, data, same, views

MIXED = [("pad_crop", {"mixup": 0.4, "cutmix": 1.0, "mixed": 0.7}), ("photo", EVERYTHING)]


@pytest.mark.parametrize(("name", "options"), MIXED)
def test_a_mixed_view_does_not_depend_on_the_batch(name: str, options: dict[str, Any]) -> None:
    split, policy = data().train, views(name, **options)
    whole = policy(split.gather(torch.arange(40)), 3, split)
    for part in torch.randperm(40).split(9):
        alone = policy(split.gather(part), 3, split)
        assert torch.equal(alone["image"], whole["image"][part])
        assert torch.equal(alone["label"], whole["label"][part])
    for other in (policy(split.gather(torch.arange(40)), 4, split), views(name, seed=1, **options)):
        other = other if isinstance(other, dict) else other(split.gather(torch.arange(40)), 3, split)
        assert not torch.equal(other["image"], whole["image"])
        assert not torch.equal(other["label"], whole["label"])


def test_two_ranks_see_the_mixed_batch_of_one() -> None:
    split, policy = data().train, views("pad_crop", mixup=1.0)
    device = torch.device("cpu")
    ranks = [Batches(split, policy, 8, 0, device, *rank).epoch(0) for rank in [(0, 1), (0, 2), (1, 2)]]
    for one, *two in zip(*ranks, strict=True):
        joined = {name: torch.cat([part[name] for part in two]) for name in one}
        place = {int(sample): row for row, sample in enumerate(joined["sample"])}
        order = torch.tensor([place[int(sample)] for sample in one["sample"]])
        assert same(one, {name: value[order] for name, value in joined.items()})


def test_partners_come_from_the_whole_set_under_their_own_view() -> None:
    split = data().train
    policy, plain = views("pad_crop", mixup=1.0), views("pad_crop")
    batch = split.gather(torch.arange(40))
    index = partners(policy.options, batch["sample"], 5, 40)
    assert len(set(index.tolist())) > 20
    own, other = plain(batch, 5, split), plain(split.gather(index), 5, split)
    got = policy(batch, 5, split)
    one_hot = torch.nn.functional.one_hot
    twice = torch.equal(batch["label"], other["label"])
    assert not twice
    differ = own["label"] != other["label"]
    share = got["label"].gather(1, own["label"][:, None])[:, 0]
    blend = torch.lerp(other["image"], own["image"], share[:, None, None, None])
    torch.testing.assert_close(got["image"][differ], blend[differ])
    expected = share[:, None] * one_hot(own["label"], CLASSES) + (1 - share[:, None]) * one_hot(
        other["label"], CLASSES
    )
    torch.testing.assert_close(got["label"][differ], expected[differ])


def test_cutmix_shares_count_the_pixels() -> None:
    policy = views("pad_crop", cutmix=1.0, padding=0, flip=0)
    split = TensorSplit(torch.arange(50.0).view(50, 1, 1, 1).expand(50, 1, 8, 8), torch.arange(50) % CLASSES)
    got = policy(split.gather(torch.arange(50)), 0, split)
    for place in range(50):
        values, counts = got["image"][place].unique(return_counts=True)
        expected = torch.zeros(CLASSES)
        for value, number in zip(values.long(), counts, strict=True):
            expected[value % CLASSES] += number / 64
        torch.testing.assert_close(got["label"][place], expected)
    inside = [(image != image.flatten()[0]).any() for image in got["image"]]
    assert sum(map(int, inside)) > 10, "no rectangles"


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixed_labels_are_shares(options: dict[str, Any]) -> None:
    split = data(400).train
    batch = split.gather(torch.arange(400))
    for share in (1.0, 0.5):
        label = views("pad_crop", mixed=share, **options)(batch, 0, split)["label"]
        assert label.shape == (400, CLASSES)
        torch.testing.assert_close(label.sum(1), torch.ones(400))
        assert label.min() >= 0
        pure = (label.max(1).values == 1).float().mean()
        assert (pure > 0.45) == (share == 0.5)
    assert views("pad_crop", mixed=0.0, **options)(batch, 0, split)["label"].shape == (400,)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_shares_are_distributed_as_beta(alpha: float) -> None:
    from scipy.special import betainc, betaincinv

    quantile = (torch.arange(1, 2999, dtype=torch.float64) + 0.37) / 3000
    found = beta(quantile, alpha).numpy()
    assert abs(found - betaincinv(alpha, alpha, quantile.numpy())).max() < 1e-3
    within = (found > 1e-9) & (found < 1 - 1e-9)
    off = betainc(alpha, alpha, found[within]) - quantile.numpy()[within]
    assert abs(off).max() < 3e-4  # the table's spacing


def test_the_task_and_the_paths_take_mixed_labels() -> None:
    split = data().train
    batch = views("pad_crop", mixup=1.0)(split.gather(torch.arange(40)), 0, split)
    task = Classification(ClassificationOptions(), CLASSES)
    logits = torch.randn(40, CLASSES, generator=torch.Generator().manual_seed(0))
    expected = -(batch["label"] * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task.loss(Outputs(logits=logits), batch), expected)
    main = {**batch, "label": batch["label"].argmax(1)}
    features = (torch.randn(40, 6, 2, 2, generator=torch.Generator().manual_seed(1)),)
    student, teacher = Outputs(features, logits), Outputs((features[0].roll(1, 0),), logits.roll(1, 0))
    for name, corrupted in (("dkd", "shuffle"), ("dkd", "shuffle_fixed"), ("crd", None)):
        losses = []
        for labels in (batch, main):
            path = create_path(name, corrupt=corrupted, student_channels=(6,), teacher_channels=(6,))
            target = path.corrupted(path.target(teacher), labels, 0)
            losses.append([loss.detach() for loss in path(student, target, labels).values()])
        assert losses[0] == losses[1], name


def test_pad_crop_shows_what_a_padded_image_holds() -> None:
    policy = views("pad_crop", padding=3, flip=0.3)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    image = (torch.arange(1.0, 65).view(1, 8, 8).repeat(3, 1, 1) / 64 - mean) / std
    moved = policy.apply(image.expand(2000, 3, 8, 8), torch.arange(2000), 1) * std + mean
    padded = torch.nn.functional.pad(image * std + mean, (3, 3, 3, 3))
    crops = torch.stack([padded[:, top : top + 8, left : left + 8] for top in range(7) for left in range(7)])
    every = torch.cat([crops, crops.flip(-1)]).flatten(1)
    fits = torch.cdist(moved.flatten(1), every) < 1e-4
    assert (fits.sum(1) == 1).all()
    assert fits.any(0).all()
    assert abs(fits[:, 49:].sum() / 2000 - 0.3) < 0.04


@pytest.mark.parametrize("fill", ["edge", "reflect"])
def test_pad_crop_fills_as_pad_does(fill: str) -> None:
    image = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    mode = {"edge": "replicate", "reflect": "reflect"}[fill]
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2), mode=mode)[0]
    crops = [padded[:, top : top + 6, left : left + 6] for top in range(5) for left in range(5)]
    for view in views("pad_crop", padding=2, flip=0, fill=fill).apply(
        image.expand(30, 2, 6, 6), torch.arange(30), 0
    ):
        assert any(torch.equal(view, crop) for crop in crops)


def test_flipping_twice_is_the_image() -> None:
    images = torch.rand(5, 3, 6, 6)
    policy = views("pad_crop", padding=0, flip=1)
    once = policy.apply(images, torch.arange(5), 0)
    assert torch.equal(once, images.flip(-1))
    assert torch.equal(policy.apply(once, torch.arange(5), 1), images)


def test_options_change_the_identity_and_the_count_bounds_the_views() -> None:
    def identity(**options: Any) -> str:
        views = {"name": "pad_crop", **options}
        return RunSpec.parse({"dataset": "digits", "student": "digits_cnn", "views": views}).identity()

    found = [identity(), identity(mixup=0.2), identity(cutmix=0.2), identity(flip=0), identity(count=3)]
    found += [identity(seed=1), identity(mixup=0.2, mixed=0.5)]
    assert len(set(found)) == len(found)
    split, policy = data().train, views("pad_crop", count=2, mixup=0.5)
    first, second, third = (
        next(Batches(split, policy, 40, 0, torch.device("cpu")).epoch(epoch)) for epoch in range(3)
    )
    order = first["sample"].argsort(), third["sample"].argsort()
    assert same(*({k: v[o] for k, v in b.items()} for b, o in zip((first, third), order, strict=True)))
    assert not torch.equal(first["image"][order[0]], second["image"][second["sample"].argsort()])


def test_the_page_on_views_shows_views_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "views.md").read_text()
    shown = [yaml.safe_load(block)["views"] for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    made = [parse_component(VIEWS, options) for options in shown]
    assert {options.component_name for options in made} == {"pad_crop", "photo", "dense"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "photo", "scale": [0.9, 0.1]}, "smaller number first"),
        ({"name": "photo", "crop": "centre"}, "center"),
        ({"name": "dense", "flip": 2}, "flip"),
        ({"name": "pad_crop", "mix_up": 1}, "mixup"),
    ],
)
def test_mistakes_in_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_component(VIEWS, options)


def test_views_that_do_not_fit_are_refused() -> None:
    spec = RunSpec.parse({"dataset": "digits", "student": "digits_cnn", "views": "dense"})
    with pytest.raises(UserError, match=r"dense.*segmentation and detection"):
        check_task(spec)
    policy = VIEWS.get("pad_crop")
    options = parse_component(VIEWS, {"name": "pad_crop", "cutmix": 1.0})
    policy.check(options, "classification")
    with pytest.raises(UserError, match=r"pad_crop: cutmix: 1 .*segmentation"):
        policy.check(options, "segmentation")
    images = torch.zeros(1, 3, 4, 4)
    with pytest.raises(UserError, match=r"padding: expected less than 4"):
        views("pad_crop", fill="reflect").apply(images, torch.arange(1), 0)
