"""Checkpoints as people's scripts write them, and files that are none.

Named after where they come from: the references of pytorch/vision and the train script of
huggingface/pytorch-image-models keep ``args: Namespace`` beside the weights, which PyTorch since 2.6 refuses
(chemprop/chemprop#1227; a ListConfig of omegaconf: open-retina/open-retina#186).
"""

from __future__ import annotations

import argparse
import logging
import pickle
import sys
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from tests.helpers import TINY
from tests.odd_inputs.weight_files import assert_read, net, refusal, saved


def a_module(**classes: type) -> types.ModuleType:
    """A module of a user's, which is gone when the file is read."""
    module = types.ModuleType("users_own")
    for name, kind in classes.items():
        kind.__module__, kind.__qualname__, kind.__name__ = "users_own", name, name
        setattr(module, name, kind)
    return module


@pytest.fixture
def users_own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = a_module(
        Config=type("Config", (dict,), {}),
        Items=type("Items", (list,), {}),
        Weights=type(
            "Weights", (dict,), {"__reduce__": lambda self: (type(self), (), None, None, iter(self.items()))}
        ),
        Average=type("Average", (), {}),
    )
    monkeypatch.setitem(sys.modules, "users_own", module)
    return module


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before archives"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torchvisions_references_write(tmp_path: Path, protocol: int, archive: bool) -> None:
    optimizer = torch.optim.SGD(net().parameters(), lr=0.1, momentum=0.9)
    content = {
        "model": net().state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), output=Path("out")),
    }
    assert_read(saved(content, protocol, archive), tmp_path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_timms_train_script_writes(tmp_path: Path, protocol: int) -> None:
    content = {
        "epoch": 7,
        "arch": "digits_cnn",
        "state_dict": net().state_dict(),
        "version": 2,
        "args": argparse.Namespace(model="digits_cnn", mean=None),
        "metric": np.float64(71.5),
        "amp_scaler": {"scale": 65536.0},
    }
    assert_read(saved(content, protocol), tmp_path)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before archives"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_classes_of_the_users_beside_the_weights(
    tmp_path: Path, users_own: Any, protocol: int, archive: bool
) -> None:
    config = users_own.Config(lr=0.1, inner=users_own.Config())
    config.frozen = True
    average = users_own.Average()
    average.decay = 0.9
    content = {
        "config": config,
        "history": users_own.Items([1, 2, users_own.Average()]),
        "ema": average,
        "losses": defaultdict(list, {1: [0.5]}),
        "rng": [np.arange(3), np.float32(2), np.dtype("f4")],
        "best": {"names": {"a", "b"}, "when": torch.Size((1, 2))},
        "model": net().state_dict(),
    }
    assert_read(saved(content, protocol, archive), tmp_path)


@pytest.mark.parametrize("kind", ["defaultdict", "a kind of dict", "a kind of dict that says how"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_weights_in_another_kind_of_mapping(tmp_path: Path, users_own: Any, kind: str, protocol: int) -> None:
    state = net().state_dict()
    kinds: dict[str, Callable[[], Any]] = {
        "defaultdict": lambda: defaultdict(list, state),
        "a kind of dict": lambda: users_own.Config(state),
    }
    if kind in kinds:
        content = kinds[kind]()
    else:
        content = users_own.Weights()
        content.update(state)
    assert_read(saved({"model": content}, protocol), tmp_path)


def test_a_whole_network_gives_its_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = net()
    network.register_buffer("passing", torch.ones(3), persistent=False)
    with caplog.at_level(logging.WARNING):
        assert_read(saved(network, 4), tmp_path)
    assert "a whole network" in caplog.text
    assert_read(saved({"ema": network, "epoch": 3}), tmp_path)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_without_torch_save(tmp_path: Path, protocol: int) -> None:
    assert_read(pickle.dumps({"model": net().state_dict()}, protocol=protocol), tmp_path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_numpy(tmp_path: Path, protocol: int) -> None:
    """As the files of detectron2's zoo hold them."""
    arrays = {name: value.numpy() for name, value in net().state_dict().items()}
    arrays["head.weight"] = np.asfortranarray(arrays["head.weight"])
    assert_read(pickle.dumps({"model": arrays, "__author__": "x"}, protocol=protocol), tmp_path)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before archives"])
def test_views_half_precision_and_parameters(tmp_path: Path, archive: bool) -> None:
    state = net().state_dict()
    both = torch.cat([state["head.weight"].flatten(), torch.zeros(9)]).half()
    shape, exact = state["head.weight"].shape, net()
    exact.head.weight.data = exact.head.weight.data.half().float()
    content = {**state, "args": argparse.Namespace(), "head.bias": nn.Parameter(state["head.bias"])}
    content["head.weight"] = both[: shape.numel()].view(shape)
    file = tmp_path / "weights.pt"
    file.write_bytes(saved({"model": content}, archive=archive))
    found = net(1, weights=str(file)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in exact.state_dict().items())


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "student.",
        "backbone.",
        "model.net.",
        "any.thing.at.all.",
    ],
)
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_prefix_of_all_names_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str, form: str
) -> None:
    state = {prefix + name: value for name, value in net().state_dict().items()}
    with caplog.at_level(logging.WARNING):
        assert_read(save(state) if form == "safetensors" else state, tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "weights.pth" in said[0]
    assert "left out" in said[0]
    assert prefix.removeprefix("module.").removesuffix("_orig_mod.") in said[0]


def test_parts_that_were_compiled_alone(tmp_path: Path) -> None:
    """``net.stages = torch.compile(net.stages)`` puts the wrapper's name into the middle."""
    state = {name.replace("stages.", "stages._orig_mod."): v for name, v in net().state_dict().items()}
    assert_read(state, tmp_path)


def test_an_average_over_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert_read(AveragedModel(net()).state_dict(), tmp_path)
    assert "n_averaged" in caplog.text


@pytest.mark.parametrize("other", ["model_ema", "state_dict_ema", "teacher"])
def test_two_that_fit_ask_for_the_key(tmp_path: Path, other: str) -> None:
    content = {"model": net().state_dict(), other: net(7).state_dict(), "args": argparse.Namespace()}
    told = refusal(content, tmp_path)
    assert f"'model' and '{other}'" in told
    assert f"weights_key: {other}" in told
    assert_read(content, tmp_path, weights_key="model")


def test_an_average_without_statistics_asks_too(tmp_path: Path) -> None:
    average = dict(net(7).named_parameters())
    told = refusal({"model": net().state_dict(), "model_ema": average}, tmp_path)
    assert "weights_key" in told


def test_an_average_beside_its_model(tmp_path: Path) -> None:
    content = {"model": net(7).state_dict(), "model_ema": AveragedModel(net()).state_dict()}
    assert "weights_key: model_ema" in refusal(content, tmp_path)
    assert_read(content, tmp_path, weights_key="model_ema")


def test_the_same_twice_asks_nothing(tmp_path: Path) -> None:
    assert_read({"state_dict": net().state_dict(), "model": net().state_dict()}, tmp_path)


def test_of_a_teacher_and_a_student_the_one_that_fits(tmp_path: Path) -> None:
    teacher = create_model("digits_cnn", classes=10, channels=1, width=16).state_dict()
    assert_read({"model": teacher, "student": net().state_dict(), "ema": {}}, tmp_path)


def test_a_key_may_be_what_names_begin_with(tmp_path: Path) -> None:
    """As a distillation's module saves both: ``student.`` and ``teacher.`` in one state."""
    state = {f"student.{name}": value for name, value in net().state_dict().items()}
    state |= {f"teacher.{name}": value for name, value in net(7).state_dict().items()}
    told = refusal({"state_dict": state}, tmp_path)
    assert "weights_key: student" in told
    assert_read({"state_dict": state}, tmp_path, weights_key="student")


def test_a_key_that_is_none_names_those_there_are(tmp_path: Path) -> None:
    told = refusal({"model": net().state_dict()}, tmp_path, weights_key="modle")
    assert "'modle'" in told
    assert "Did you mean 'model'?" in told


@pytest.mark.parametrize("where", ["student", "teacher"])
def test_a_key_needs_a_file(where: str) -> None:
    key = {"weights_key": "model"}
    changes = {
        "student": {"student": {"name": "digits_cnn", **key}},
        "teacher": {"teacher": {**TINY["teacher"], **key}},
    }
    with pytest.raises(UserError, match="weights_key"):
        RunSpec.parse({**TINY, **changes[where]})


def test_the_key_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"model": net().state_dict(), "model_ema": net(7).state_dict()}, file)

    def identity(**key: str) -> str:
        spec = {**TINY, "student": {"name": "digits_cnn", "weights": str(file), **key}}
        return RunSpec.parse(spec).identity()

    keys: list[dict[str, str]] = [{}, {"weights_key": "model"}, {"weights_key": "model_ema"}]
    assert len({identity(**key) for key in keys}) == 3
    model = {"name": "digits_cnn"}
    teachers = [{"model": model, "weights": str(file), **key} for key in keys]
    spec = {**TINY, "paths": ["soft_target"]}
    assert len({RunSpec.parse({**spec, "teacher": teacher}).identity() for teacher in teachers}) == 3


def test_a_safetensors_under_another_name_is_one(tmp_path: Path) -> None:
    save_file(net().state_dict(), tmp_path / "weights.bin")
    assert_read((tmp_path / "weights.bin").read_bytes(), tmp_path)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        content = saved({"model": net().state_dict(), "args": argparse.Namespace()})
    finally:
        torch.serialization.set_crc32_options(before)
    assert_read(content, tmp_path)
