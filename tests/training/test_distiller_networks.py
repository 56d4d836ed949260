"""``Distiller`` with plain modules, taps, several teachers, other losses and other precisions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_kd import Distiller, Outputs
from ray_kd.config.errors import UserError
from tests.training.loops import UNWEIGHTED, Bare, Net, data, made, state_of, train
from tests.training.runs import assert_same


def test_features_of_plain_modules_by_taps() -> None:
    """The same numbers as the network that returns them in Outputs; taps alike, or each its own."""
    ends = []
    for student, teacher, taps in (
        (Net(1), Net(2), ()),
        (Bare(1), Bare(2), ["inner.first", "inner.second"]),
        (Bare(1), Net(2), {"student": ["inner.first", "inner.second"]}),
    ):
        distiller = Distiller(
            student, teacher, paths=["nst", "soft_target"], steps=8, taps=taps, image_shape=(1, 8, 8)
        )
        train(distiller, distiller.optimizer(torch.optim.SGD, lr=0.05), data(), 2)
        ends.append({name.removeprefix("inner."): value for name, value in student.state_dict().items()})
    assert_same(ends[0], ends[1])
    assert_same(ends[1], ends[2])


def test_a_head_that_a_path_binds_is_found_in_a_network_with_taps() -> None:
    ends = []
    for taps in ((), ["first", "second"]):
        student = Net(1)
        distiller = Distiller(
            student, Net(2), paths=["softmax_regression"], steps=8, taps=taps, image_shape=(1, 8, 8)
        )
        train(distiller, distiller.optimizer(torch.optim.SGD, lr=0.05), data(), 2)
        ends.append(student.state_dict())
    assert_same(ends[0], ends[1])


def test_logits_alone_and_several_teachers() -> None:
    paths = [{"name": "soft_target", "teacher": "a"}, {"name": "logits", "teacher": "b"}]
    distiller = Distiller(Bare(1), {"a": Bare(2), "b": Net(3)}, paths=paths, steps=8)
    step = train(distiller, distiller.optimizer(torch.optim.AdamW, lr=0.01), data(), 2)
    assert step.losses.keys() == {"soft_target", "logits"}


def test_the_teacher_sees_its_own_images_in_evaluation_mode() -> None:
    seen = []
    teacher = Net(2, 0.5, True)
    teacher.register_forward_pre_hook(lambda net, given: seen.append((net.training, given[0].clone())))
    way = {"student": ([0.5], [0.25]), "teacher": ([0.0], [1.0])}
    distiller = Distiller(Net(1), teacher, paths=["logits"], steps=1, normalise=way)
    teacher.train()  # as a module that holds both does
    train(distiller, distiller.optimizer(torch.optim.SGD, lr=0.05), data(1), 1)
    assert not seen[-1][0]
    torch.testing.assert_close(seen[-1][1], data(1)[0]["image"] * 0.25 + 0.5)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_task_loss_and_groups_of_ones_own() -> None:
    def smoothed(outputs: Outputs, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits, batch["label"], label_smoothing=0.1)

    student = Net(1)
    distiller = Distiller(student, Net(2), paths=["nst"], steps=4, task_loss=smoothed)
    head = {"params": student.head.parameters(), "lr": 0.0}
    sgd = distiller.optimizer(torch.optim.SGD, [head], lr=0.05)
    grouped = [parameter for group in sgd.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(distiller.engine.trained)
    step = train(distiller, sgd, data(1) * 4, 1)
    assert torch.equal(student.head.weight, Net(1).head.weight)
    assert not torch.equal(student.one.weight, Net(1).one.weight)
    assert distiller.last_epoch is None or step.task_loss > 0
    with pytest.raises(UserError, match="none of the student's"):
        Distiller(Net(), steps=4).optimizer(torch.optim.SGD, [{"params": Net().parameters()}], lr=0.1)


@pytest.mark.parametrize("aggregation", ["adaptive", "mgda"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_needs_nothing_of_the_loop(precision: str, aggregation: str) -> None:
    whole = made(4, aggregation, UNWEIGHTED)
    half = made(4, aggregation, UNWEIGHTED, precision=precision)
    ends = [train(distiller, sgd, data(), 1) for distiller, sgd in (whole, half)]
    assert half[0].engine.scaler.is_enabled() == (precision == "float16")
    for name, value in state_of(whole[0]).items():
        torch.testing.assert_close(state_of(half[0])[name], value, rtol=0.1, atol=0.02)
    assert ends[0].task_loss != ends[1].task_loss


def test_tokens_and_a_distillation_token_of_networks_as_they_are() -> None:
    """timm's own networks: a ViT's tokens as maps, a layout said by hand, and DeiT's two heads."""
    timm = pytest.importorskip("timm")
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 4}
    student = timm.create_model("deit_tiny_distilled_patch16_224", **size)
    teacher = timm.create_model("vit_tiny_patch16_224", **size)
    taps = ["blocks.0", "blocks.1"]
    distiller = Distiller(
        student,
        teacher,
        paths=["distillation_token", "nst", "similarity"],
        taps={"student": taps, "teacher": [taps[0], {"module": taps[1], "prefix": 1}]},
        image_shape=(3, 16, 16),
        steps=1,
    )
    before = student.head_dist.weight.detach().clone()
    optimizer = distiller.optimizer(torch.optim.SGD, lr=0.1)
    for _ in distiller.epochs(1):
        with distiller.step(optimizer) as step:
            step({"image": torch.randn(8, 3, 16, 16), "label": torch.arange(8) % 4})
    assert set(step.weights) == {"distillation_token", "nst", "similarity"}
    assert not torch.equal(student.head_dist.weight, before)


def test_a_head_that_reads_a_class_token_is_no_head_of_the_pooled_tap() -> None:
    timm = pytest.importorskip("timm")
    size = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 4}
    student, teacher = (timm.create_model("vit_tiny_patch16_224", **size) for _ in range(2))
    options = {"taps": ["blocks.1"], "image_shape": (3, 16, 16), "steps": 1}
    with pytest.raises(UserError, match="needs the teacher's head"):
        Distiller(student, teacher, paths=["softmax_regression"], **options)
