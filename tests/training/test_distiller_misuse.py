"""What a user's loop leaves out, or hands over wrongly, is one message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_kd import Distiller, Outputs
from ray_kd.config.errors import TrainingFailed, UserError
from tests.training.loops import PATHS, Bare, Batch, Net, data, made, take, train, within


def nested(distiller: Distiller, sgd: Any) -> None:
    with distiller.step(sgd), distiller.step(sgd):
        pass


def own_step(distiller: Distiller, sgd: Any) -> None:
    take(distiller, sgd)
    sgd.step()


def early(distiller: Distiller, sgd: Any) -> None:
    with distiller.step(sgd) as step:
        step(data()[0])
        _ = step.weights


def evaluated(distiller: Distiller, sgd: Any) -> None:
    distiller.engine.student.eval()
    take(distiller, sgd)


def without(key: str) -> Batch:
    return {name: value for name, value in data()[0].items() if name != key}


MISUSE: dict[str, Callable[[Distiller, Any], object]] = {
    "no epoch is under way": take,
    "a step is under way; leave its block": lambda d, o: within(d, lambda: nested(d, o)),
    "made no call": lambda d, o: within(d, lambda: d.step(o).__enter__().__exit__(None, None, None)),
    "expected 'with distiller.step": lambda d, o: within(d, lambda: d.step(o)(data()[0])),
    "got another SGD": lambda d, o: within(d, lambda: take(d, torch.optim.SGD(Net().parameters(), lr=0.1))),
    "leave the call out": lambda d, o: within(d, lambda: own_step(d, o)),
    "has its 4 steps already": lambda d, o: within(d, lambda: [take(d, o) for _ in range(5)]),
    "epoch 1 ended after 1 steps, expected 4": lambda d, o: within(d, lambda: take(d, o)),
    "epoch 1 ended after 0 steps": lambda d, o: within(d, lambda: None),
    "got 3 epochs of 8 steps": lambda d, o: list(d.epochs(3)),
    "call student.train": lambda d, o: within(d, lambda: evaluated(d, o)),
    "once its block was left": lambda d, o: within(d, lambda: early(d, o)),
    "a training has one": lambda d, o: d.optimizer(torch.optim.SGD, lr=0.1),
    "expected a mapping": lambda d, o: within(d, lambda: take(d, o, (1, 2))),
    r"task 'classification' needs batch\['label'\], got \['image', 'sample'\]": lambda d, o: within(
        d, lambda: take(d, o, without("label"))
    ),
    "path 'crd' needs batch\\['sample'\\]": lambda d, o: within(d, lambda: take(d, o, without("sample"))),
    "at least one sample": lambda d, o: within(
        d, lambda: take(d, o, {k: v[:0] for k, v in data()[0].items()})
    ),
}


@pytest.mark.parametrize("message", MISUSE)
def test_misuse_is_one_message(message: str) -> None:
    distiller, sgd = made(8, paths=["soft_target", "crd"])
    with pytest.raises(UserError, match=message):
        MISUSE[message](distiller, sgd)


def test_a_step_needs_the_optimizer_and_a_state_no_open_step() -> None:
    distiller = Distiller(Net(), Net(), steps=None, paths=PATHS)
    with pytest.raises(UserError, match=r"expected what distiller\.optimizer"):
        within(distiller, lambda: take(distiller, torch.optim.SGD(Net().parameters(), lr=0.1)))
    sgd = distiller.optimizer(torch.optim.SGD, lr=0.1)
    for _ in distiller.epochs(1):
        with distiller.step(sgd) as step:
            step(data()[0])
            with pytest.raises(UserError, match="a step is under way"):
                distiller.state_dict()


ONE, WHOLE = Net(), Bare()
WRONG: dict[str, dict[str, Any]] = {
    "unknown precision 'bf16'": {"precision": "bf16"},
    "paths.1: unknown path 'nts'. Did you mean 'nst'": {"paths": ["logits", "nts"]},
    "paths: expected a list": {"paths": "logits"},
    "paths.1: a path is called 'logits' already": {"paths": ["logits", "logits"]},
    "there is no teacher": {"teacher": None},
    "paths.0.teacher: unknown teacher 'big'": {"paths": [{"name": "logits", "teacher": "big"}]},
    "expected 'teacher', one of a, b": {"teacher": {"a": Net(), "b": Net()}},
    "aggregation: unknown aggregator": {"aggregation": "adaptiv"},
    "aggregation: expected the name of an aggregator": {"aggregation": ["fixed"]},
    "teacher: expected a torch.nn.Module, got str": {"teacher": "resnet18"},
    "got DataParallel": {"student": nn.DataParallel(Net())},
    "say what the images' shape is": {"student": Bare(), "taps": {"student": ["inner.one"]}},
    "no module 'inner.on'. Did you mean": {
        "student": Bare(),
        "taps": {"student": ["inner.on"]},
        "image_shape": (1, 8, 8),
    },
    "compares feature maps, and the student has none": {"student": Bare(), "paths": ["nst"]},
    "taps=[...] of the Distiller names": {"student": Bare(), "paths": ["nst"]},
    "unknown network 'studnet'": {"taps": {"studnet": ["one"]}},
    "normalise: expected 'student'": {"normalise": {"teacher": ([0.5], [0.5])}},
    "parameters of its own": {"task_loss": nn.Linear(1, 1)},
    "expected a function": {"task_loss": "mse"},
    "path 'logits' is for": {"task": "detection"},
    "steps: expected a whole number of at least 1": {"steps": 0},
    "of at least 1, or None, got 6.5": {"steps": 6.5},
    "clip: expected a norm over 0, or None, got -1": {"clip": -1},
    "task_weight: expected a number of at least 0, got -1": {"task_weight": -1},
    "expected (channels, height, width), got (8, 8)": {"student": Bare(), "image_shape": (8, 8)},
    "fails on images of shape [3, 8, 8] in module": {"student": Bare(), "image_shape": (3, 8, 8)},
    "expected a list of modules, got 'inner.one'; write ['inner.one']": {"taps": "inner.one"},
    "teacher 'teacher' shares weights with the student": {"student": ONE, "teacher": ONE},
    "teacher 'small' shares weights": {"student": WHOLE, "teacher": {"small": WHOLE.inner}},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_refused_when_it_is_made(message: str) -> None:
    given = {"student": Net(), "teacher": Net(), "paths": ["logits"], "steps": 8, **WRONG[message]}
    with pytest.raises(UserError, match=re.escape(message)):
        Distiller(given.pop("student"), given.pop("teacher"), **given)


def test_an_optimizer_that_is_no_sgd_is_refused_by_a_form_of_sgd() -> None:
    distiller = Distiller(Net(), Net(), paths=PATHS, aggregation="dot", steps=8)
    with pytest.raises(UserError, match=r"'dot' is a form of SGD: expected torch\.optim\.SGD, got AdamW"):
        distiller.optimizer(torch.optim.AdamW, lr=0.1)


def test_an_optimizer_is_handed_over_as_its_class() -> None:
    distiller = Distiller(Net(), Net(), paths=PATHS, steps=8)
    with pytest.raises(UserError, match=r"expected a class \(torch\.optim\.SGD\), got an object, SGD"):
        distiller.optimizer(torch.optim.SGD(Net().parameters(), lr=0.1))


@pytest.mark.parametrize("taken", [0, 1])
def test_a_layer_that_the_optimizer_does_not_know_is_named(taken: int) -> None:
    student = Net(1)
    distiller, sgd = made(4, paths=["logits"], student=student)
    epochs = distiller.epochs(4)
    for _ in range(taken):
        next(epochs)
        take(distiller, sgd)
    student.head = nn.Linear(6, 10)
    with pytest.raises(UserError, match=r"the student's 'head\.weight' would never train"):
        next(epochs)


def test_a_state_of_another_training_is_refused() -> None:
    state = made(8)[0].state_dict()
    for others, message in (
        ({"paths": ["logits"]}, r"losses: expected \('logits',\), got"),
        ({"aggregation": "dwa"}, "aggregator: expected dwa, got fixed"),
    ):
        with pytest.raises(UserError, match=message):
            made(8, **others)[0].load_state_dict(state)
    distiller = Distiller(Net(1), Net(2), paths=PATHS, steps=8)
    distiller.optimizer(torch.optim.AdamW, lr=0.1)
    with pytest.raises(UserError, match=r"optimizers: expected \['AdamW'\], got \['SGD'\]"):
        distiller.load_state_dict(state)


def test_a_student_that_no_gradient_reaches_is_told_at_the_first_step() -> None:
    class Cut(Net):
        def forward(self, image: Tensor) -> Outputs:
            outputs = super().forward(image)
            return Outputs(tuple(feature.detach() for feature in outputs.features), outputs.logits)

    distiller, sgd = made(8, paths=["nst"], student=Cut())
    with pytest.raises(UserError, match="path 'nst': no gradient reaches the student"):
        train(distiller, sgd, data(), 2)


def test_losses_that_are_no_numbers_end_the_epoch() -> None:
    distiller, sgd = made(2, paths=["logits"])
    with pytest.raises(TrainingFailed, match=r"the task loss.*path 'logits'"):
        train(distiller, sgd, [{**data()[0], "image": torch.full((12, 1, 8, 8), torch.nan)}] * 2, 1)
