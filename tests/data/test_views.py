"""Views: pure functions of (seed, sample, view); masks, boxes and labels follow the image."""

from __future__ import annotations

import random
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torchvision import tv_tensors

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import VIEWS
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, TensorSplit
from ray_kd.data.batches import Batches
from ray_kd.data.mixing import beta, partners
from ray_kd.data.sample_views import drawing
from ray_kd.data.views import Views
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.paths import create_path
from ray_kd.tasks.classification import Classification, ClassificationOptions
from ray_kd.training.check import check_task

CLASSES = 7
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
EVERYTHING = {
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "randaugment": 2,
    "erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}


class Pictures:
    """A ``RawSplit`` of pictures of many sizes, each pixel a mark of where it lies."""

    size = (24, 24)

    def __init__(self, count: int = 12) -> None:
        self.ids = torch.arange(count) * 3 + 100

    def __len__(self) -> int:
        return len(self.ids)

    def raw(self, index: int) -> dict[str, Any]:
        draw = torch.Generator().manual_seed(index)
        height, width = 30 + index % 5 * 7, 40 - index % 3 * 6
        boxes = torch.rand(4, 2, 2, generator=draw).sort(dim=1).values.flatten(1)
        boxes = boxes * torch.tensor([width, height]).repeat(2)
        return {
            "image": tv_tensors.Image(
                torch.randint(256, (3, height, width), generator=draw, dtype=torch.uint8)
            ),
            "label": index % CLASSES,
            "mask": tv_tensors.Mask(torch.randint(5, (height, width), generator=draw)),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "box_label": torch.arange(4),
            "area": torch.full((4,), 9.0),
        }

    def finish(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        return {name: torch.as_tensor(value) for name, value in sample.items()}


def data(count: int = 40, side: int = 8) -> Dataset:
    dataset = Dataset()
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, side, side), generator=draw) / 255
    images = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    dataset.train = TensorSplit(images, torch.arange(count) % CLASSES, torch.arange(count) * 5 + 2)
    dataset.classes, dataset.channels, dataset.mean, dataset.std = CLASSES, 3, MEAN, STD
    return dataset


def views(name: str, **options: Any) -> Any:
    made: Views = VIEWS.get(name)(parse_component(VIEWS, {"name": name, **options}))
    made.bind(data(), made.tasks[0])
    return made


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one
    )


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


def _viewed(job: tuple[str, dict[str, Any], int]) -> dict[str, Any]:
    name, options, index = job
    split = Pictures()
    shown: dict[str, Any] = views(name, **options).sample(split.raw(index), split, index, 2)
    return {key: torch.as_tensor(value).clone().numpy() for key, value in shown.items()}


@pytest.mark.parametrize(("name", "options"), [("photo", EVERYTHING), ("dense", {"brightness": 0.5})])
def test_a_view_of_a_raw_sample_is_the_same_in_any_process_and_order(
    name: str, options: dict[str, Any]
) -> None:
    jobs = [(name, options, index) for index in range(12)]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    here = [_viewed(job) for job in jobs]
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()
    assert states[2] == random.getstate()
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        elsewhere = list(pool.map(_viewed, reversed(jobs)))
    for one, other in zip(here, reversed(elsewhere), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)
    split, policy = Pictures(), views(name, **options)
    first = policy.sample(split.raw(0), split, 0, 2)
    assert not same(first, policy.sample(split.raw(0), split, 0, 3))
    assert same(split.raw(0), Pictures().raw(0)), "the raw sample was changed in place"


def test_every_generator_is_keyed_within_a_view() -> None:
    def draws(*parts: int) -> list[float]:
        with drawing(*parts):
            return [float(torch.rand(())), np.random.random(), random.random()]

    first = draws(0, 1)
    assert first == draws(0, 1)
    assert all(one != other for one, other in zip(first, draws(0, 2), strict=True))


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
    split = Pictures()
    same_size = {"scale": (1.0, 1.0), "relative": "image", "visible": 0, "smallest": 0, "flip": 1}
    raw = split.raw(3)
    dense = views("dense", size=tuple(raw["image"].shape[-2:]), **same_size)
    twice = dense.show(dense.show(raw, split.size), split.size)
    for name in ("image", "mask", "boxes", "box_label"):
        torch.testing.assert_close(torch.as_tensor(twice[name]), torch.as_tensor(raw[name]))


def blob(height: int, width: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """A bright rectangle on black, with its mask and its box."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, box[1] : box[3], box[0] : box[2]] = 255
    return {
        "image": tv_tensors.Image(image),
        "mask": tv_tensors.Mask((image[0] > 0).long()),
        "boxes": tv_tensors.BoundingBoxes(
            torch.tensor([box]).float(), format="XYXY", canvas_size=(height, width)
        ),
        "box_label": torch.tensor([4]),
        "area": torch.tensor([float((box[2] - box[0]) * (box[3] - box[1]))]),
    }


@pytest.mark.parametrize("relative", ["size", "image"])
def test_mask_and_box_follow_the_image(relative: str) -> None:
    policy = views("dense", size=(48, 40), relative=relative, scale=(0.6, 1.8), visible=0.5, smallest=3)
    raw = blob(64, 50, (12, 20, 32, 44))
    shown = kept = flips = 0
    for view in range(120):
        got = policy._shown(raw, 7, view, (1, 1))
        image, mask = got["image"].as_subclass(Tensor), got["mask"].as_subclass(Tensor)
        assert image.shape == (3, 48, 40)
        assert mask.shape == (48, 40)
        seen = mask != IGNORE
        wrong = ((image[0] > 127) != (mask == 1)) & seen
        assert wrong.float().mean() < 0.03  # nearest pixels and blended ones differ along the rim alone
        fill = torch.tensor(policy.fill(image)).to(torch.uint8)
        assert (image[:, ~seen] == fill[:, None]).all()
        assert len(got["boxes"]) == len(got["box_label"]) == len(got["area"])
        shown += 1
        rows, columns = (mask == 1).any(1).nonzero(), (mask == 1).any(0).nonzero()
        if len(got["boxes"]):
            kept += 1
            tight = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
            box = got["boxes"].as_subclass(Tensor)[0]
            assert (box - torch.tensor(tight)).abs().max() <= 1
            area = (box[2:] - box[:2]).prod()
            torch.testing.assert_close(got["area"][0], area, rtol=0.05, atol=1.0)
            assert min(box[2:] - box[:2]) >= 3
            flips += int(columns[0]) + int(columns[-1]) > 0
        elif len(rows):
            assert len(rows) * len(columns) < 0.55 * (1.8 * 24 * 1.8 * 20)
    assert shown == 120
    assert 40 < kept <= 120


def test_a_mark_keeps_its_side_unless_flipped() -> None:
    raw = blob(40, 40, (0, 10, 8, 20))
    sides = []
    for view in range(200):
        got = views_dense._shown(raw, 1, view, (40, 40))
        columns = (got["mask"].as_subclass(Tensor) == 1).any(0).nonzero().flatten()
        box = got["boxes"].as_subclass(Tensor)[0]
        assert [float(columns[0]), float(columns[-1]) + 1] == [float(box[0]), float(box[2])]
        sides.append(float(box[0]) > 20)
    assert abs(np.mean(sides) - 0.5) < 0.12


views_dense = views("dense", scale=(1.0, 1.0))


def test_an_image_may_end_without_objects() -> None:
    policy = views("dense", size=(10, 10), relative="image", scale=(1.0, 1.0), visible=1.0)
    raw = {name: value for name, value in blob(60, 60, (0, 0, 6, 6)).items() if name != "mask"}
    counts = {len(policy._shown(raw, 0, view, (1, 1))["boxes"]) for view in range(20)}
    assert 0 in counts
    got = policy._shown({**raw, **{k: raw[k][:0] for k in ("boxes", "box_label", "area")}}, 0, 0, (1, 1))
    assert got["boxes"].shape == (0, 4)


@pytest.mark.parametrize("crop", ["random_resized", "center", "pad"])
def test_photos_of_any_size_get_the_size(crop: str) -> None:
    split = Pictures()
    for size, expected in ((None, split.size), (20, (20, 20)), ((18, 30), (18, 30))):
        policy = views("photo", crop=crop, size=size)
        for index in range(6):
            shown = policy.sample(split.raw(index), split, index, 0)
            assert shown["image"].shape == (3, *expected)
            assert shown["image"].dtype == torch.uint8


def test_photos_in_memory_keep_their_pixels() -> None:
    split = data().train
    policy = views("photo", crop="pad", padding=0, flip=0)
    batch = split.gather(torch.arange(10))
    torch.testing.assert_close(policy(batch, 0, split)["image"], batch["image"], rtol=0, atol=1e-5)
    nameless = views("photo")
    nameless.mean = None
    with pytest.raises(UserError, match="normalised"):
        nameless(batch, 0, split)


def test_scenes_in_memory_keep_masks_boxes_and_padding() -> None:
    row = {name: value[None] for name, value in blob(24, 24, (4, 6, 12, 18)).items()}
    boxes = torch.cat([row["boxes"].as_subclass(Tensor), torch.zeros(1, 2, 4)], 1)
    label = torch.tensor([[4, -1, -1]])
    mask = row["mask"].as_subclass(Tensor)
    image = (row["image"].as_subclass(Tensor) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    split = TensorSplit(image, mask=mask, boxes=boxes, box_label=label)
    batch = split.gather(torch.tensor([0]))
    still = views("dense", scale=(1.0, 1.0), flip=0)(batch, 0, split)
    assert same(still, {**batch, "image": still["image"]})
    torch.testing.assert_close(still["image"], batch["image"], rtol=0, atol=1e-5)
    flipped = views("dense", scale=(1.0, 1.0), flip=1)(batch, 0, split)
    assert flipped["boxes"][0, 0].tolist() == [12, 6, 20, 18]
    assert flipped["box_label"].tolist() == [[4, -1, -1]]
    assert torch.equal(flipped["mask"], mask.flip(-1))


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
