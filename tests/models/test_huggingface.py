"""Image models of transformers: from a mapping or a folder, for both tasks, built for the dataset."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.models.huggingface import HuggingfaceModel, HuggingfaceOptions
from ray_kd.training.preflight import check_run, check_task
from tests.helpers import TINY, TINY_SCENES
from tests.models import small
from tests.models.small import CONVNEXT, RESNET, SEGFORMER

transformers = pytest.importorskip("transformers")


def made(
    config: Any,
    size: tuple[int, int] = (32, 32),
    channels: int = 3,
    classes: int = 5,
    **options: Any,
) -> Any:
    options = options if config is None else {"config": config, **options}
    return create_model("huggingface", classes=classes, channels=channels, size=size, **options)


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 1), ((32, 64), 5)])
@pytest.mark.parametrize(
    ("config", "prefix", "strides"),
    [
        (small.HF_VIT, 1, [8, 8, 8, 8]),
        (small.HF_DEIT, 2, [8, 8, 8, 8]),
        (small.HF_SWIN, 0, [4, 8]),
        (RESNET, 0, [4, 8, 16, 32]),
        (CONVNEXT, 0, [4, 8, 16, 32]),
        (SEGFORMER, 0, [4, 8, 16, 32]),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)
def test_built_for_the_datasets_images(
    config: dict[str, Any], prefix: int, strides: list[int], size: tuple[int, int], channels: int
) -> None:
    model = made(config, size, channels)
    outputs = model.eval()(torch.randn(2, channels, *size))
    assert outputs.logits.shape == (2, 5)
    assert {tap.prefix for tap in model.described} == {prefix}
    grids = [(size[0] // stride, size[1] // stride) for stride in strides]
    assert [tuple(feature.shape[2:]) for feature in outputs.features] == grids
    assert tuple(feature.shape[1] for feature in outputs.features) == model.stage_channels


def test_a_segmentation_network_and_its_own_resolution() -> None:
    model = made(SEGFORMER, (32, 64), task="segmentation")
    outputs = model(torch.randn(2, 3, 32, 64))
    assert outputs.logits.shape == (2, 5, 8, 16)
    assert model.last_layers == ("decode_head.classifier",)


def test_logits_and_names_are_transformers_own() -> None:
    model = made(small.HF_VIT).eval()
    config = transformers.ViTConfig(**{**small.HF_VIT, "image_size": 32}, num_labels=5)
    plain = transformers.ViTForImageClassification(config).eval()
    plain.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(image).logits, plain(image).logits)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"config": {"model_type": "vitt"}}, "model_type: vitt; expected vit, deit"),
        ({"config": {"hidden_size": 8}}, "model_type: None"),
        ({"config": "nowhere"}, "no file 'nowhere'; expected a folder or file of transformers"),
        ({"config": small.HF_VIT, "task": "segmentation"}, "no segmentation network of model_type vit"),
        (
            {"config": {**small.HF_VIT, "patch_size": 64}},
            "no classification network|fails on images",
        ),
        ({"model": "a/b", "config": small.HF_VIT}, "expected neither beside it"),
        ({"config": {**SEGFORMER, "num_channels": 3}, "taps": ["segformer.stages.9"]}, "no module"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        create_model("huggingface", classes=5, channels=3, size=(32, 32), **options)


def test_without_a_network_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"cannot fetch config.json of 'someone/vit' \(ConnectionE"):
        made(None, model="someone/vit")


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'ray-kd\[huggingface\]'"):
        made(small.HF_VIT)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder as transformers writes it."""
    config = transformers.ViTConfig(**{**small.HF_VIT, "image_size": 32}, num_labels=5)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, image_mean=[0.1] * 3, image_std=[0.2] * 3).save_pretrained(
        tmp_path / "vit"
    )
    return str(tmp_path / "vit")


def test_a_folder_is_a_model_with_its_weights(folder: str) -> None:
    plain = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    model = made(None, model=folder).eval()
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(image).logits, plain(image).logits)
    drawn = made(folder).eval()  # the same architecture, from the run's seed
    assert not torch.equal(drawn(image).logits, plain(image).logits)
    fresh = made(None, model=folder, head="fresh", classes=7)
    assert fresh.state_dict()["classifier.weight"].shape == (7, 16)
    with pytest.raises(UserError, match="'head: fresh' leaves the last layer as it was drawn"):
        made(None, model=folder, classes=7)
    with pytest.raises(UserError, match="images of another size"):
        made(None, model=folder, size=(64, 64))
    said = HuggingfaceModel.preprocessing(HuggingfaceOptions(config=folder), folder)
    assert (said.mean, said.std, said.size) == ((0.1,) * 3, (0.2,) * 3, (32, 32))  # type: ignore[union-attr]


def test_identity_is_of_what_the_files_say(folder: str, tmp_path: Path) -> None:
    def identity(**options: Any) -> str:
        return RunSpec.parse({**TINY, "student": {"name": "huggingface", **options}}).identity()

    first, mapping = identity(model=folder), identity(config=small.HF_VIT)
    Path(folder).rename(tmp_path / "moved")
    moved = str(tmp_path / "moved")
    assert identity(model=moved) == first
    assert identity(config=moved) != first
    (tmp_path / "moved" / "config.json").write_text((tmp_path / "moved" / "config.json").read_text() + "\n")
    assert identity(model=moved) != first
    assert identity(config={**small.HF_VIT, "hidden_size": 32}) != mapping
    assert identity(config="someone/vit") == identity(config="hub:someone/vit") != mapping


def test_the_head_has_to_be_that_of_the_runs_task() -> None:
    student = {"name": "huggingface", "config": SEGFORMER}
    spec = RunSpec.parse({**TINY, **TINY_SCENES, "student": student})
    with pytest.raises(UserError, match=r"student\.task: expected segmentation, the run's, got cla"):
        check_task(spec)
    check_task(RunSpec.parse({**TINY, **TINY_SCENES, "student": {**student, "task": "segmentation"}}))


def test_softmax_regression_reads_a_head_that_makes_the_logits() -> None:
    for config in (RESNET, CONVNEXT):
        model = made(config).eval()
        outputs = model(torch.randn(2, 3, 32, 32))
        found = model.head(outputs.features[-1].mean((2, 3)))
        assert torch.allclose(found, outputs.logits, atol=1e-4)
    assert not hasattr(made(small.HF_VIT), "head")


def test_every_layer_of_the_classes_is_known() -> None:
    """UperNet's last layers are two, one of them auxiliary."""
    backbone = transformers.ConvNextConfig(
        **{**CONVNEXT, "out_features": ["stage1", "stage2", "stage3", "stage4"]}, num_stages=4
    )
    config = {
        "model_type": "upernet",
        "backbone_config": backbone.to_dict(),
        "hidden_size": 8,
        "auxiliary_in_channels": 16,
        "auxiliary_channels": 8,
    }
    model = made(config, (64, 64), task="segmentation")
    assert model.last_layers == ("decode_head.classifier", "auxiliary_head.classifier")


def test_a_folder_is_looked_at_before_anything_trains(folder: str) -> None:
    deeper = {**small.HF_VIT, "num_hidden_layers": 6}
    student = {"name": "huggingface", "config": deeper, "weights": folder, "head": "fresh"}
    with pytest.raises(UserError, match=r"do not fit HuggingfaceModel.*of a network of another depth"):
        check_run(RunSpec.parse({**TINY, "student": student}))
    check_run(RunSpec.parse({**TINY, "student": {**student, "config": small.HF_VIT}}))


def test_its_library_builds_the_same_network() -> None:
    networks = (RESNET, "classification"), (small.HF_VIT, "classification"), (SEGFORMER, "segmentation")
    for config, task in networks:
        model = made(config, channels=1, task=task).eval()
        image = torch.randn(2, 1, 32, 32)
        assert torch.equal(small.rebuilt(model)(image).logits, model(image).logits)
