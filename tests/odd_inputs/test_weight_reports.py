"""Weights that do not fit, hold no numbers, or lie in a file that is damaged: what is said of them."""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.models.weight_fit import compare, reason
from ray_kd.training.preflight import check_run
from tests.helpers import TINY
from tests.odd_inputs.weight_files import net, refusal, saved


def test_what_does_not_fit_is_found_before_a_teacher_trains(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"model": net().state_dict(), "model_ema": net(7).state_dict()}, file)
    spec = RunSpec.parse({**TINY, "student": {"name": "digits_cnn", "weights": str(file)}})
    with pytest.raises(UserError, match="weights_key"):
        check_run(spec)
    torch.save(create_model("wrn", classes=10, channels=3, depth=10, width=1).state_dict(), file)
    with pytest.raises(UserError, match="another network"):
        check_run(spec)
    torch.save(create_model("digits_cnn", classes=7, channels=4).state_dict(), file)
    check_run(
        RunSpec.parse({**TINY, "student": {"name": "digits_cnn", "weights": str(file), "head": "fresh"}})
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float, form: str) -> None:
    state = net().state_dict()
    state["head.weight"][3, 2] = value
    told = refusal(save(state) if form == "safetensors" else state, tmp_path)
    assert "head.weight" in told
    assert "1 of" in told
    assert "NaN or infinite" in told


def test_a_fresh_head_does_not_mind_what_the_old_one_held(tmp_path: Path) -> None:
    state = net().state_dict()
    state["head.weight"][3, 2] = float("nan")
    torch.save(state, tmp_path / "weights.pt")
    net(1, weights=str(tmp_path / "weights.pt"), head="fresh")


def test_infinities_of_a_mask_are_the_networks_own(tmp_path: Path) -> None:
    options = {"classes": 3, "channels": 1, "build": f"{__name__}:masked"}
    source = create_model("factory", seed=5, **options)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    found = create_model("factory", seed=1, weights=str(tmp_path / "weights.pt"), **options)
    assert torch.equal(found.state_dict()["weight"], source.state_dict()["weight"])
    with torch.device("meta"):  # as before anything trains
        create_model("factory", weights=str(tmp_path / "weights.pt"), **options)


class Masked(nn.Module):
    """Holds a mask of minus infinity, as attention does."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes))
        self.register_buffer("mask", torch.full((3,), -float("inf")))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((1, 2, 3))[:, None] * self.weight


def masked(classes: int, channels: int) -> nn.Module:
    return Masked(classes)


def without(state: dict[str, Any], part: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if part not in name}


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    return {f"layer{number}": value for number, value in enumerate(state.values())}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            lambda: create_model("digits_cnn", classes=1000, channels=1).state_dict(),
            ["1000 classes", "head: fresh"],
        ),
        (
            lambda: create_model("digits_cnn", classes=10, channels=3).state_dict(),
            ["3 channels", "these have 1"],
        ),
        (
            lambda: create_model("digits_cnn", classes=10, channels=1, width=16).state_dict(),
            ["another width", "stages.0.0.weight is (16, 1, 3, 3) there"],
        ),
        (lambda: without(net().state_dict(), "stages.3"), ["missing (stages.3", "another depth"]),
        (
            lambda: {
                **net().state_dict(),
                "stages.4.0.weight": torch.ones(1),
                "stages.4.1.bias": torch.ones(1),
            },
            ["2 unexpected (stages.4.0.weight", "another depth"],
        ),
        (lambda: renamed(net().state_dict()), ["under other names", "layer0 there"]),
        (
            lambda: create_model("wrn", classes=10, channels=3, depth=10, width=1).state_dict(),
            ["another network"],
        ),
        (
            lambda: {**{f"encoder.{n}": v for n, v in net().state_dict().items()}, "queue.x": torch.ones(1)},
            ["weights_key: encoder"],
        ),
        (
            lambda: {**net().state_dict(), "head.bias": torch.ones(10, dtype=torch.int8)},
            ["another kind", "head.bias"],
        ),
        (
            lambda: {**net().state_dict(), "head.bias": torch.ones(10).to_sparse()},
            ["another kind", "head.bias"],
        ),
    ],
    ids=[
        "classes",
        "channels",
        "width",
        "shallow",
        "deep",
        "names",
        "another",
        "part",
        "quantised",
        "sparse",
    ],
)
def test_the_report_gives_the_likely_reason(
    tmp_path: Path, content: Callable[[], Any], says: list[str]
) -> None:
    told = refusal(content(), tmp_path)
    for word in ["do not fit", " of ", " fit", *says]:
        assert word in told, told


def test_images_of_another_size(tmp_path: Path) -> None:
    import torchvision

    def vit(size: int) -> Any:
        small = {"patch_size": 4, "num_layers": 1, "num_heads": 1, "hidden_dim": 4, "mlp_dim": 4}
        return torchvision.models.VisionTransformer(image_size=size, num_classes=3, **small)

    fit = compare(vit(8), vit(16).state_dict())
    assert "another size" in reason(fit, vit(8))
    assert "17 tokens" in reason(fit, vit(8))


def archive(**records: bytes | None) -> bytes:
    """A file with ``args`` beside its weights, some records of which are changed or gone."""
    plain, changed = (
        io.BytesIO(saved({"model": net().state_dict(), "args": argparse.Namespace()})),
        io.BytesIO(),
    )
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            value = records.get(name.partition("/")[2], old.read(name))
            if value is not None:
                new.writestr(name, value)
    return changed.getvalue()


def flipped(content: bytes) -> bytes:
    """One bit of the first weights turned over."""
    values = net().state_dict()["stages.0.0.weight"].numpy().tobytes()
    place = content.index(values)
    return content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :]


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: b"", "empty"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (lambda: b"\n<!DOCTYPE html><html>Access denied</html>", "web page"),
        (lambda: b"neither\nthis nor that", "makes no sense"),
        (lambda: saved(net().state_dict())[:-200], "cut short"),
        (lambda: saved(net().state_dict(), archive=False)[:-20], "cut short"),
        (lambda: saved(net().state_dict()).replace(b"\n", b"\r\n"), "copied as text"),
        (lambda: flipped(saved(net().state_dict())), "checksum"),
        (lambda: archive(**{"data.pkl": None}), "no data.pkl"),
        (lambda: archive(**{"data/0": None}), "missing"),
        (lambda: archive(**{"data/0": b"\0\0"}), "holds 2 bytes"),
        (lambda: archive(**{"byteorder": b"big"}), "byte order"),
        (lambda: archive(**{"data.pkl": b"\x80\x02}q"}), "breaks off"),
        (scripted, "TorchScript"),
    ],
    ids=[
        *("empty", "lfs", "html", "text", "cut", "cut old", "crlf", "bit", "no pickle", "no record"),
        *("short record", "big endian", "cut pickle", "script"),
    ],
)
def test_a_file_that_is_damaged_says_how(tmp_path: Path, content: Callable[[], bytes], says: str) -> None:
    told = refusal(content(), tmp_path)
    assert "damaged, or no file of weights" in told
    assert says in told, told


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:4], "cut short"),
        (lambda data: data[:30], "cut short"),
        (lambda data: data[:-9], "cut short"),
        (lambda data: data[:8] + b"x" + data[9:], "JSON"),
        (lambda data: b"", "empty"),
    ],
)
def test_a_damaged_safetensors_says_how(tmp_path: Path, change: Callable[[bytes], bytes], says: str) -> None:
    told = refusal(change(save(net().state_dict())), tmp_path, "weights.safetensors")
    assert says in told, told


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3}, "a mapping of epoch"),
        ([1, 2], "'list'"),
        (argparse.Namespace(lr=3), "an object of 'argparse.Namespace'"),
        ({"model": argparse.Namespace(lr=3)}, "model (an object of 'argparse.Namespace')"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(tmp_path: Path, content: Any, says: str) -> None:
    assert says in refusal(content, tmp_path)
