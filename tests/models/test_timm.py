"""timm's networks by name: built for the dataset, tapped as timm says, weights from a folder or a file."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ray_kd import distill
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.models.timm_classifier import TimmClassifier, TimmOptions
from ray_kd.storage import Store
from ray_kd.teacher.normalise import renormalisation
from ray_kd.training.build import build
from ray_kd.training.preflight import check_run
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext
from tests.helpers import TINY, tiny
from tests.models.small import DEIT, SWIN, VIT, rebuilt

timm = pytest.importorskip("timm")


def made(
    options: dict[str, Any], size: tuple[int, int] = (32, 32), channels: int = 3, classes: int = 5
) -> Any:
    return create_model(**options, classes=classes, channels=channels, size=size)


@pytest.mark.parametrize(("size", "channels"), [((32, 32), 1), ((32, 64), 5)])
@pytest.mark.parametrize(
    ("options", "layout", "prefix", "grids"),
    [
        ({"name": "timm", "model": "resnet18"}, "NCHW", 0, [4, 8, 16, 32]),
        ({"name": "timm", "model": "convnext_atto"}, "NCHW", 0, [4, 8, 16, 32]),
        (VIT, "NLC", 1, [4, 4, 4, 4]),
        (DEIT, "NLC", 2, [4, 4, 4, 4]),
        (SWIN, "NHWC", 0, [4, 8, 16, 32]),
    ],
)
def test_built_for_the_datasets_images(
    options: dict[str, Any], layout: str, prefix: int, grids: list[int], size: tuple[int, int], channels: int
) -> None:
    model = made(options, size, channels)
    outputs = model.eval()(torch.randn(2, channels, *size))
    assert outputs.logits.shape == (2, 5)
    assert [tap.layout for tap in model.described] == [layout] * 4
    assert {tap.prefix for tap in model.described} == {prefix}
    strides = [(size[0] // stride, size[1] // stride) for stride in grids]
    assert [tuple(feature.shape[2:]) for feature in outputs.features] == strides
    assert tuple(feature.shape[1] for feature in outputs.features) == model.stage_channels


def test_logits_and_names_are_timms_own() -> None:
    model = made(VIT).eval()
    plain = timm.create_model(VIT["model"], num_classes=5, img_size=32, **VIT["arguments"]).eval()
    plain.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(image).logits, plain(image))


@pytest.mark.parametrize(
    ("options", "size", "says"),
    [
        ({"model": "resnet19"}, (32, 32), "timm has no model 'resnet19'. Did you mean 'resnet18'"),
        ({"model": "resnet18.a9_in1k"}, (32, 32), "unknown tag 'a9_in1k'. Did you mean 'a3_in1k'"),
        ({"model": "resnet18", "arguments": {"depth": 3}}, (32, 32), r"arguments: .*'depth'"),
        (
            {"model": "resnet18", "weights": "PRETRAINED"},
            (32, 32),
            "needs the tag .*such as resnet18.a1_in1k",
        ),
        (
            {"model": "resnet18", "weights": "IMAGENET1K_V1"},
            (32, 32),
            "a folder or PRETRAINED, got 'IMAGENET",
        ),
        ({"model": "vit_tiny_patch16_224"}, (8, 8), "fails on images of 8 x 8 .*its own is 224 x 224"),
        ({"model": "hiera_tiny_224", "taps": ["blocks.0"]}, (64, 64), "do not lie row by row"),
        ({"model": "resnet18", "weights": "nowhere"}, (32, 32), "no file 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], size: tuple[int, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        made({"name": "timm", **options}, size)


def test_without_a_network_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route\nto the hub")

    model = made({"name": "timm", "model": "resnet18.a1_in1k"})
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"cannot fetch .* resnet18.a1_in1k \(ConnectionError: no route\)"):
        model.published("PRETRAINED")()


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return plain(name, *rest)

    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'ray-kd\[timm\]'"):
        made({"name": "timm", "model": "resnet18"})


def folder(place: Path, model: Any, **card: Any) -> str:
    """A folder as timm writes it for the hub."""
    place.mkdir()
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, place / "model.safetensors"
    )
    (place / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": card}))
    return str(place)


def test_weights_from_a_folder_and_its_file_are_the_same(tmp_path: Path) -> None:
    plain = {"name": "timm", "model": "resnet18"}
    first = made(plain)
    place = folder(tmp_path / "ours", first, mean=[0.1, 0.2, 0.3], std=[0.5] * 3, input_size=[3, 64, 64])
    for weights in (place, f"{place}/model.safetensors"):
        again = made({**plain, "weights": weights})
        assert all(map(torch.equal, again.state_dict().values(), first.state_dict().values()))
    whole, file = (
        TimmOptions(model="resnet18", weights=weights) for weights in (place, f"{place}/model.safetensors")
    )
    assert whole.essence() == file.essence()
    assert TimmClassifier.preprocessing(whole).mean == (0.1, 0.2, 0.3)  # type: ignore[union-attr]
    assert TimmClassifier.preprocessing(file, place).size == (64, 64)  # type: ignore[union-attr]
    fresh = made({**plain, "weights": place, "head": "fresh"}, classes=7)
    assert fresh.state_dict()["fc.weight"].shape == (7, 512)
    with pytest.raises(UserError, match="'head: fresh' leaves the last layer as it was drawn"):
        made({**plain, "weights": place}, classes=7)
    with pytest.raises(UserError, match=r"expected model.safetensors or pytorch_model.bin in the folder"):
        made({**plain, "weights": str(tmp_path)})


def test_the_images_of_a_teacher_are_as_its_folder_says(tmp_path: Path) -> None:
    model = {"name": "timm", "model": "resnet18"}
    place = folder(tmp_path / "ours", made(model, channels=1), mean=[0.25], std=[0.5], input_size=[1, 8, 8])
    spec = tiny(tmp_path, teacher={"model": model, "weights": place}, paths=["soft_target"])
    dataset = ProcessCache().dataset(spec.dataset, torch.device("cpu"))
    dataset.mean, dataset.std = (0.5,), (0.25,)
    found = renormalisation(spec, "teacher", dataset)
    assert found is not None
    assert found(torch.tensor([[[[2.0]]]])).item() == pytest.approx((2 * 0.25 + 0.5 - 0.25) / 0.5)
    bare = tiny(
        tmp_path, teacher={"model": model, "weights": f"{place}/model.safetensors"}, paths=["soft_target"]
    )
    (Path(place) / "config.json").unlink()  # weights of one's own: nobody says what they were trained on
    assert renormalisation(bare, "teacher", dataset) is None


def test_in_a_run_the_size_is_the_datasets(tmp_path: Path) -> None:
    """Digits are 8 x 8 and have one channel."""
    vit = {**VIT, "arguments": {**VIT["arguments"], "patch_size": 2}}
    spec = tiny(
        tmp_path, student=vit, teacher={**TINY["teacher"], "weights": "initial"}, paths=["similarity"]
    )
    check_run(spec)
    student: Any = build(spec, RunContext(Store(spec.storage), torch.device("cpu")), ProcessCache()).student
    assert (student.size, student.channels) == ((8, 8), 1)
    assert student.described[0].grid == (4, 4)


def test_identity_knows_options_and_not_the_version() -> None:
    base = RunSpec.parse({**TINY, "student": VIT}).identity()
    assert RunSpec.parse({**TINY, "student": {**VIT, "taps": None}}).identity() == base
    assert RunSpec.parse({**TINY, "student": {**VIT, "image_size": [8, 8]}}).identity() != base
    assert RunSpec.parse({**TINY, "student": DEIT}).identity() != base


def test_softmax_regression_reads_a_head_that_makes_the_logits() -> None:
    """Found by trying: of a ViT it is the class token that the head reads, and not the pooled tap."""
    for options, there in (("resnet18", True), ("convnext_atto", True), ("mobilenetv3_small_050", False)):
        model = made({"name": "timm", "model": options}).eval()
        if not there:
            assert not hasattr(model, "head")
            continue
        outputs = model(torch.randn(2, 3, 32, 32))
        found = model.head(outputs.features[-1].mean((2, 3)))
        assert torch.allclose(found, outputs.logits, atol=1e-4)
    assert not hasattr(made(VIT), "head")


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_a_distilled_students_two_heads_are_trained_and_their_mean_is_asked(
    tmp_path: Path, labels: str
) -> None:
    """DeiT: the class token's head learns the labels, the other the teacher; evaluation reads the mean."""
    student = {**DEIT, "arguments": {**DEIT["arguments"], "patch_size": 4}}
    teacher = {**TINY["teacher"], "weights": "initial"}
    path = {"name": "distillation_token", "labels": labels}
    spec = tiny(tmp_path, student=student, teacher=teacher, paths=[path])
    check_run(spec)
    parts = build(spec, RunContext(Store(spec.storage), torch.device("cpu")), ProcessCache())
    model: Any = parts.student
    batch = parts.dataset.train.gather(torch.arange(4))
    batch["view"] = torch.zeros(4, dtype=torch.long)
    outputs = model.train()(batch["image"])
    task = parts.task.loss(outputs, batch)
    (loss,) = parts.paths[0](outputs, parts.targets.targets(batch)["distillation_token"], batch).values()
    heads = [model.net.head.weight, model.net.head_dist.weight]
    for value, reached in ((task, heads[0]), (loss, heads[1])):
        found = torch.autograd.grad(value, heads, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in found] == [head is reached for head in heads]
    asked = model.eval()(batch["image"])
    assert not asked.extra
    model.net.distilled_training = True
    plain = model.net.forward_head(model.net.forward_features(batch["image"]))
    assert torch.allclose(asked.logits, plain, atol=1e-6)
    without = build(
        tiny(tmp_path, student=student, teacher=teacher, paths=["soft_target"]),
        RunContext(Store(spec.storage), torch.device("cpu")),
        ProcessCache(),
    ).student
    assert not without.train()(batch["image"]).extra  # no path reads it: both heads learn the labels


def test_a_path_that_reads_a_distillation_token_needs_one(tmp_path: Path) -> None:
    spec = tiny(tmp_path, paths=["distillation_token"])
    with pytest.raises(UserError, match=r"needs extra\['distillation'\]"):
        distill(spec)


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["live", "stored"])
def test_a_run_between_networks_of_libraries(tmp_path: Path, targets: str) -> None:
    """A ViT, built for images of 8 x 8, is trained here, and teaches a ResNet of transformers."""
    pytest.importorskip("transformers")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    spec = tiny(
        tmp_path,
        student={"name": "huggingface", "config": {"model_type": "resnet", **sizes}},
        teacher={**TINY["teacher"], "model": {**VIT, "arguments": {**VIT["arguments"], "patch_size": 2}}},
        paths=["soft_target", "nst", "similarity"],
        targets=targets,
    )
    assert distill(spec)["status"] == "finished"
    (environment,) = {file.read_text() for file in tmp_path.glob(f"runs/{spec.identity()}/environment.json")}
    assert {"timm", "transformers"} <= json.loads(environment).keys()


def test_its_library_builds_the_same_network() -> None:
    for options in ({"name": "timm", "model": "mobilenetv3_small_050"}, VIT):
        model = made(options, channels=1).eval()
        image = torch.randn(2, 1, 32, 32)
        assert torch.equal(rebuilt(model)(image), model(image).logits)
