"""Settings of modern recipes: each does what it says, and a run that is resumed is one that never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn import functional as F

from ray_kd.aggregation import create_aggregator
from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import TASKS
from ray_kd.config.training import Ema, Optimizer, optimizer_class
from ray_kd.models import create_model
from ray_kd.models.compiled import own_state
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.training.build import build
from ray_kd.training.distill import distill
from ray_kd.training.ema import AveragedStudent
from ray_kd.training.evaluation import evaluate
from ray_kd.training.preflight import check_run
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.training.step import make_optimizers
from tests.helpers import ALL_PATHS, tiny
from tests.training.runs import assert_resumes, assert_same, lines, weights

PATHS = ["soft_target", "nst"]
FIXED: Any = create_aggregator("fixed", names=("a",))


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "rmsprop", "lr": 1e-3, "options": {"alpha": 0.9, "centered": True}},
        {"name": "adamw", "lr": 1e-3, "decay_norms": False, "options": {"eps": 1e-6}},
    ],
    ids=lambda optimizer: optimizer["name"],
)
def test_a_run_with_any_optimizer_resumes(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    assert_resumes(tmp_path, 5, paths=PATHS, optimizer=optimizer)


@pytest.mark.parametrize("name", ["adadelta", "adafactor", "adagrad", "asgd", "nadam", "radam", "rmsprop"])
def test_an_optimizer_of_torch_is_taken_as_pytorch_documents_it(name: str) -> None:
    weight, same = (nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3)) for _ in range(2))
    (made,) = make_optimizers(Optimizer(name=name, lr=0.01), [weight], FIXED)
    momentum = {"momentum": 0.9} if name == "rmsprop" else {}
    expected = optimizer_class(name)([same], lr=0.01, weight_decay=1e-4, **momentum)
    for _ in range(3):
        for parameter, optimizer in ((weight, made), (same, expected)):
            optimizer.zero_grad()
            (parameter**3).sum().backward()
            optimizer.step()
    assert torch.equal(weight, same)


def test_biases_norms_and_what_a_network_names_do_not_decay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.ones(1, 2, 3))
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))

        def no_weight_decay(self) -> set[str]:  # as networks of timm have it
            return {"position", "dist_token"}  # the second is not there

    wrapped = nn.ModuleDict({"student": Net()})
    trained = list(wrapped.parameters())
    (made,) = make_optimizers(Optimizer(lr=1.0, decay_norms=False), trained, FIXED, wrapped)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    before = {name: value.detach().clone() for name, value in wrapped.named_parameters()}
    made.step()
    moved = {name for name, value in wrapped.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"student.layers.0.weight"}


def test_a_form_of_sgd_takes_no_options() -> None:
    dot = create_aggregator("dot", names=("a",))
    with pytest.raises(UserError, match=r"'dot' .* without optimizer\.options"):
        make_optimizers(Optimizer(options={"dampening": 0.1}), [nn.Parameter(torch.ones(2))], dot)


def test_smoothing_gives_a_share_of_each_label_to_all_classes(tmp_path: Path) -> None:
    logits, label = torch.randn(5, 10, generator=torch.manual_seed(1)), torch.tensor([3, 0, 9, 9, 1])
    likely = logits.log_softmax(1)
    expected = -(0.9 * likely[range(5), label] + 0.1 * likely.mean(1)).mean()
    plain, smooth = (
        TASKS.get("classification")(parse_component(TASKS, options), classes=10)
        for options in ("classification", {"name": "classification", "smoothing": 0.1})
    )
    outputs, batch = Outputs((), logits), {"label": label}
    torch.testing.assert_close(smooth.loss(outputs, batch), expected)
    torch.testing.assert_close(smooth.loss(outputs, {"label": F.one_hot(label, 10).float()}), expected)
    figures = [task.metrics(task.sums(outputs, batch, None)) for task in (plain, smooth)]
    assert figures[0] == figures[1], "metrics are of the labels as they are"
    spec = tiny(tmp_path, task={"name": "classification", "smoothing": 0.1})
    assert spec.identity() != tiny(tmp_path).identity()
    assert spec.teacher_run("teacher") == tiny(tmp_path).teacher_run("teacher")


def test_smoothing_of_a_mask_leaves_out_the_pixels_that_are_ignored() -> None:
    task = TASKS.get("segmentation")(
        parse_component(TASKS, {"name": "segmentation", "smoothing": 0.2}), classes=4
    )
    logits = torch.randn(2, 4, 3, 3, generator=torch.manual_seed(1))
    mask = torch.arange(18).view(2, 3, 3) % 4
    mask[0, 0] = IGNORE
    pixels, label = logits.movedim(1, -1)[mask != IGNORE], mask[mask != IGNORE]
    expected = F.cross_entropy(pixels, label, label_smoothing=0.2)
    torch.testing.assert_close(task.loss(Outputs((), logits), {"mask": mask}), expected)


def test_a_step_in_parts_is_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    """Where no layer looks at the batch as a whole: up to float order."""
    states = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
        training = {"epochs": 2, "batch_size": 30, "accumulate": accumulate}
        spec = tiny(tmp_path, training=training, paths=["soft_target", "logits"], aggregation="adaptive")
        summary = distill(spec, student=student, key=str(accumulate))
        assert summary["steps"] == 8
        states.append(student.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6)


def test_an_accumulated_run_resumes(tmp_path: Path) -> None:
    assert_resumes(tmp_path, 6, paths=PATHS, training={"epochs": 3, "batch_size": 30, "accumulate": 3})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"aggregation": "mgda"}, "'mgda' needs the gradient"),
        ({"paths": [{"name": "crd", "negatives": 8}]}, "'crd' remembers"),
        ({"resources": {"workers": 5}}, "5 workers .* in 4 parts"),
    ],
)
def test_what_cannot_accumulate_is_refused_before_anything_trains(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    training = {"epochs": 3, "batch_size": 30, "accumulate": 3 if "resources" not in changes else 4}
    with pytest.raises(UserError, match=says):
        check_run(tiny(tmp_path, **{"paths": PATHS, "training": training, **changes}))


@pytest.mark.parametrize("options", [{"decay": 0.7}, {"decay": 0.9, "warmup": True}], ids=str)
def test_the_average_is_that_of_timm(options: dict[str, Any]) -> None:
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    theirs = ModelEmaV3(student, decay=options["decay"], use_warmup="warmup" in options)
    ours = AveragedStudent(Ema(**options), student)
    for step in range(1, 6):
        with torch.no_grad():
            student(torch.full((5, 3), 1.0 * step) * torch.arange(1, 6)[:, None])
            for parameter in student.parameters():
                parameter.add_(step)
        ours.update(step)
        theirs.update(student, step=step)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.state[name], value)
    trained = {name: value.clone() for name, value in own_state(student).items()}
    with ours.shown():
        assert torch.equal(student[0].weight, ours.state["0.weight"])
    assert torch.equal(student[0].weight, trained["0.weight"])
    assert not torch.equal(student[0].weight, ours.state["0.weight"])


def test_an_averaged_run_resumes_and_its_average_is_what_counts(tmp_path: Path) -> None:
    training = {"epochs": 3, "batch_size": 30, "ema": {"decay": 0.8}}
    summary = assert_resumes(tmp_path, 6, paths=PATHS, training=training)
    plain = distill(tiny(tmp_path / "whole", paths=PATHS))
    records = [lines(tmp_path / "whole", found["identity"]) for found in (summary, plain)]
    for averaged, raw in zip(*records, strict=True):
        assert averaged["val_raw"] == raw["val"], "training does not read the average"
        assert averaged["val"] != raw["val"]
    assert summary["best"]["val"]["top1"] == max(record["val"]["top1"] for record in records[0])
    assert summary["last"]["test_raw"] == plain["last"]["test"]
    spec = tiny(tmp_path / "whole", paths=PATHS, training=training)
    student = create_model(spec.student, classes=10, channels=1)
    student.load_state_dict(weights(tmp_path / "whole", summary))
    context = local_context(spec)
    parts = build(spec, context, ProcessCache())
    found = evaluate(student, parts.task, parts.dataset.test, None, context)
    for name, value in found.items():
        assert summary["last"]["test"][name] == pytest.approx(value), "the saved weights are the average"


def test_a_users_own_student_has_the_averaged_weights_in_the_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    spec = tiny(tmp_path, paths=[], training={"epochs": 1, "batch_size": 30, "ema": {"decay": 0.5}})
    summary = distill(spec, student=student, key="own")
    assert_same(dict(student.state_dict()), weights(tmp_path, summary))


def test_a_run_in_channels_last_resumes_and_is_the_same_training(tmp_path: Path) -> None:
    training = {"epochs": 3, "batch_size": 30, "channels_last": True}
    summary = assert_resumes(tmp_path, 5, paths=ALL_PATHS, training=training)
    plain = distill(tiny(tmp_path / "whole", paths=ALL_PATHS))
    first, second = (lines(tmp_path / "whole", found["identity"])[0] for found in (summary, plain))
    assert first["train"]["loss"] == pytest.approx(second["train"]["loss"], rel=1e-3), "up to float order"


COMPILED: dict[str, Any] = {
    "paths": PATHS,
    "training": {"epochs": 2, "batch_size": 30, "compile": True, "ema": {"decay": 0.8}},
}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_compiled_run_resumes_and_is_the_same_training(tmp_path: Path) -> None:
    summary = assert_resumes(tmp_path, 5, **COMPILED)
    assert summary["compiled"] == dict.fromkeys(
        ("teacher 'teacher'", "student", "path 'soft_target'", "path 'nst'"), "compiled"
    )
    plain = distill(
        tiny(tmp_path / "whole", paths=PATHS, training={**COMPILED["training"], "compile": False})
    )
    first, second = (lines(tmp_path / "whole", found["identity"])[0] for found in (summary, plain))
    assert first["train"]["loss"] == pytest.approx(second["train"]["loss"], rel=1e-3), "up to float order"
    first_weights, second_weights = (weights(tmp_path / "whole", found) for found in (summary, plain))
    assert first_weights.keys() == second_weights.keys(), "under their own names"


@pytest.mark.exhaustive
@pytest.mark.slow
def test_compiled_steps_take_gradients_of_each_loss_and_parts_of_a_batch(tmp_path: Path) -> None:
    training = {"epochs": 1, "batch_size": 30, "compile": True}
    for changes in ({"aggregation": "mgda"}, {"training": {**training, "accumulate": 2}}):
        summary = distill(tiny(tmp_path, **{"paths": PATHS, "training": training, **changes}))
        assert set(summary["compiled"].values()) == {"compiled"}


def test_what_cannot_be_compiled_is_named_and_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here nothing can: there is no compiler."""
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no_such_compiler",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    summary = distill(tiny(tmp_path, **COMPILED))
    assert all(told.startswith("as written: ") for told in summary["compiled"].values())
    assert "student cannot be compiled and runs as it is written" in caplog.text
    plain = distill(tiny(tmp_path, paths=PATHS, training={**COMPILED["training"], "compile": False}))
    assert_same(weights(tmp_path, summary), weights(tmp_path, plain))
