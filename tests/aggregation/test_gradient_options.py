"""What methods over gradients can be told: how often, over which parameters, with or without the task."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ray_kd.aggregation import Aggregator, Gradients, create_aggregator
from ray_kd.aggregation.gramian_weighting import GameOptions, GradientAggregator, GradientOptions
from ray_kd.aggregation.torchjd_methods import TorchjdAggregator
from ray_kd.config.errors import UserError
from ray_kd.config.registry import AGGREGATORS
from ray_kd.testing.toy import STAGED, Loop, Toy
from ray_kd.training.preflight import check_run
from tests.aggregation.linear import aggregator_for, gradients, once, play
from tests.helpers import tiny

ALL: dict[str, type[Aggregator]] = {name: AGGREGATORS.get(name) for name in AGGREGATORS.names()}
AMORTISED = [
    name
    for name, cls in ALL.items()
    if "every" in cls.Options.model_fields and not cls.tensor and not cls.probes
]
MEASURED = [name for name, cls in ALL.items() if issubclass(cls.Options, GradientOptions)]
GAMES = [name for name, cls in ALL.items() if issubclass(cls.Options, GameOptions)]
NAMES = ("hint", "soft", "square")
"""Losses of the toy whose gradients are not too unlike."""
LIVELY: dict[str, dict[str, Any]] = {
    "mgda": {"normalise": "l2"},
    "olaux": {"horizon": 1},
    "mokd": {"clip": 0},
}
"""Options under which a method's factors move within a step or two."""


def counting(given: Gradients) -> list[tuple[str, int]]:
    """What is asked of ``given``: the method, and of how many losses."""
    asked: list[tuple[str, int]] = []
    for name in ("jacobian", "backward"):
        original = getattr(given, name)

        def counted(losses: Any, *rest: Any, name: str = name, original: Any = original, **named: Any) -> Any:
            asked.append((name, len(losses)))
            return original(losses, *rest, **named)

        setattr(given, name, counted)
    return asked


@pytest.mark.parametrize("name", AMORTISED)
def test_every_measures_on_every_nth_step_alone(name: str) -> None:
    """In between a step is one backward and the factors are those of the last measurement."""
    toy = Toy()
    aggregator = create_aggregator(name, names=NAMES, every=3, parameters="all", **LIVELY.get(name, {}))
    factors, measured = [], []
    for step in range(7):
        with torch.no_grad():
            toy.layer("deep").weight.mul_(1 + 0.3 * step)
        task, losses = toy(NAMES)
        given = toy.gradients()
        asked = counting(given)
        update = aggregator(task, losses, given)
        update.backward()
        factors.append([update.log["task_factor"], *update.factors.tolist()])
        measured.append([name for name, _ in asked] == ["jacobian"])
        assert measured[-1] or asked == [("backward", 1 + len(aggregator.names))]
        assert (update.gradient_norms is None) == (not measured[-1]) or name == "mokd"
    assert measured == [True, False, False, True, False, False, True]
    assert factors[0] == factors[1] == factors[2]
    assert factors[3] == factors[4] == factors[5]
    assert factors[0] != factors[3]
    assert factors[3] != factors[6]


@pytest.mark.parametrize("name", AMORTISED)
def test_every_goes_on_after_a_resume(name: str) -> None:
    """Saved between two measurements: the state carries the factors and where in the round it is."""
    loop = Loop(create_aggregator(name, names=STAGED, every=3), Toy(), STAGED, lr=0.01)
    loop.steps(2)
    fresh = create_aggregator(name, names=STAGED, every=3, seed=9)
    fresh.load_state_dict(loop.aggregator.state_dict())
    other = Loop(fresh, Toy(), STAGED, lr=0.01)
    other.toy.load_state_dict(loop.toy.state_dict())
    other.optimizers[0].load_state_dict(copy.deepcopy(loop.optimizers[0].state_dict()))
    other.taken = loop.taken
    assert other.steps(5) == loop.steps(5)


@pytest.mark.parametrize("name", MEASURED)
def test_parameters_choose_what_is_looked_at(name: str) -> None:
    """The factors differ with where the gradients are measured; all of the student trains."""
    seen = {}
    for which in ("all", "deep", "deep.weight"):
        toy = Toy()
        aggregator = create_aggregator(name, names=NAMES, parameters=which, **LIVELY.get(name, {}))
        for _ in range(3):
            task, losses = toy(NAMES)
            update = aggregator(task, losses, toy.gradients())
        update.backward()
        seen[which] = update.factors
        assert all(toy.layer(layer).weight.grad is not None for layer in ("stem", "deep", "head"))
    if name == "gradnorm":  # whose first steps are of one size: see the next test
        return
    assert not torch.equal(seen["deep.weight"], seen["deep"])
    assert not torch.equal(seen["all"], seen["deep"])


def test_gradnorm_looks_at_the_last_shared_layer() -> None:
    """Attention of stage 0 attaches to ``stem``: what every loss shares is ``stem``, not ``deep``."""
    steps = {}
    for which in ("last_shared", "stem", "deep"):
        loop = Loop(create_aggregator("gradnorm", names=STAGED, parameters=which), Toy(), STAGED, lr=0)
        steps[which] = loop.steps(4)
    assert ALL["gradnorm"].Options().parameters == "last_shared"
    assert steps["last_shared"] == steps["stem"]
    assert steps["last_shared"] != steps["deep"]


def test_last_shared_is_the_deepest_layer_upstream_of_every_tap() -> None:
    toy = Toy()
    for names, wanted in (
        (("soft",), "head"),
        (("hint", "soft"), "deep"),
        (("attention/stage1",), "deep"),
        (("hint", "attention/stage0"), "stem"),
    ):
        task, losses = toy(names)
        given = toy.gradients()
        chosen = [given.names[i] for i in given.choose("last_shared", [task, *losses.values()])]
        assert chosen == [f"{wanted}.weight", f"{wanted}.bias"], names


def test_parameters_that_do_not_exist_are_named() -> None:
    toy = Toy()
    task, losses = toy(STAGED)
    with pytest.raises(UserError, match=r"parameters: 'depe'.*Did you mean 'deep'"):
        create_aggregator("mgda", names=STAGED, parameters="depe")(task, losses, toy.gradients())
    with pytest.raises(UserError, match="parameters: 'dee'"):  # a prefix of a name, not of letters
        create_aggregator("mgda", names=STAGED, parameters="dee")(task, losses, toy.gradients())
    apart = toy.layer("spare")(torch.ones(1, 2)).square().mean()
    with pytest.raises(UserError, match=r"last_shared: no parameter.*parameters: all"):
        create_aggregator("mgda", names=["apart"], parameters="last_shared")(
            task, {"apart": apart}, toy.gradients()
        )
    with pytest.raises(UserError, match="last_shared: no parameter"):  # nothing here has a gradient
        create_aggregator("mgda", names=["apart"], parameters="last_shared")(
            task.detach(), {"apart": apart.detach()}, toy.gradients()
        )


@pytest.mark.parametrize("name", GAMES)
def test_task_outside_is_added_as_it_is(name: str) -> None:
    """Outside, the game among the paths is the game that the paths alone would play."""
    if "stochastic" in ALL[name].traits or name == "gradnorm":
        options: dict[str, Any] = {"seed": 3}
    else:
        options = {}
    if name == "gradnorm":
        options["parameters"] = "all"
    rows = gradients(2, m=4)
    outside = once(name, rows, task="outside", **options)
    assert outside.alphas[0] == 1
    np.testing.assert_allclose(outside.direction, outside.alphas @ rows, rtol=1e-5, atol=1e-7)
    # The same three as the objectives of an inside game, the first as its task.
    inside = play(aggregator_for(name, 2, task="inside", **options), rows[1:])
    np.testing.assert_allclose(outside.alphas[1:], inside.alphas, rtol=1e-5, atol=1e-8)
    same = once(name, rows, task="inside", **options)
    if name != "gradnorm":
        assert not np.allclose(same.alphas, outside.alphas)


def test_a_path_off_the_logits_is_refused_by_ae_kd() -> None:
    toy = Toy()
    task, losses = toy(("soft", "attention/stage1"))
    aggregator = create_aggregator("ae_kd", names=list(losses))
    with pytest.raises(UserError, match=r"path 'attention' does not depend on the student's logits"):
        aggregator(task, losses, toy.gradients())
    given = toy.gradients()
    given.tensors = {}
    with pytest.raises(UserError, match="'logits'"):
        aggregator(task, losses, given)


def test_a_run_of_ae_kd_is_refused_before_anything_trains(tmp_path: Path) -> None:
    check_run(tiny(tmp_path, paths=["soft_target", "logits"], aggregation="ae_kd"))
    for path in ("attention_transfer", "softmax_regression", "pkt"):
        with pytest.raises(UserError, match=f"'ae_kd' looks at .* logits; expected .*, got '{path}'"):
            check_run(tiny(tmp_path, paths=["soft_target", path], aggregation="ae_kd"))
        check_run(tiny(tmp_path, paths=["soft_target", path], aggregation="mgda"))


@pytest.mark.parametrize("name", [name for name, cls in ALL.items() if cls.tier == 2])
def test_without_gradients_it_says_what_to_pass(name: str) -> None:
    with pytest.raises(UserError, match=r"needs gradients.*Gradients\(student"):
        create_aggregator(name, names=["a"])(torch.tensor(1.0), {"a": torch.tensor(1.0)})


def test_without_torchjd_its_methods_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)  # what an absent package looks like
    for name, cls in ALL.items():
        if issubclass(cls, TorchjdAggregator):
            with pytest.raises(UserError, match=rf"'{name}'.*pip install 'ray-kd\[mtl\]'"):
                create_aggregator(name, names=["a"])
        else:
            create_aggregator(name, names=["a"])


@pytest.mark.parametrize("chunk", [2, 3, 9])
def test_chunked_jacobians_are_the_same(chunk: int) -> None:
    toy = Toy()
    rows = []
    for size in (1, chunk):
        task, losses = toy(STAGED)
        jacobian = toy.gradients(chunk=size).jacobian([task, *losses.values()])
        rows.append(jacobian.rows.clone())
        assert all(not by[-1] for by in jacobian.reached), "spare is upstream of nothing"
    torch.testing.assert_close(rows[0], rows[1])


def test_adapters_follow_their_path_and_never_climb() -> None:
    """A negative factor turns the student away from a path and leaves the path's adapter alone."""
    toy = Toy()
    task, losses = toy(("hint", "soft"))
    given = toy.gradients()
    jacobian = given.jacobian([task, *losses.values()])
    given.write(torch.zeros(jacobian.rows.shape[1]), jacobian, [1.0, -2.0, 1.0])
    assert toy.adapter.weight.grad is not None
    assert (toy.adapter.weight.grad == 0).all()
    for parameter in toy.trained():
        parameter.grad = None
    task, losses = toy(("hint", "soft"))
    toy.gradients().backward([task, *losses.values()], [1.0, -2.0, 1.0])
    assert toy.adapter.weight.grad is None or (toy.adapter.weight.grad == 0).all()
    wanted = torch.autograd.grad(
        (lambda task, losses: task - 2 * losses["hint"] + losses["soft"])(*toy(("hint", "soft"))),
        toy.layer("deep").weight,
    )[0]
    torch.testing.assert_close(toy.layer("deep").weight.grad, wanted)


def test_no_gradients_where_there_is_nothing_to_train() -> None:
    frozen = nn.Linear(2, 2)
    frozen.weight.requires_grad_(False)
    given = Gradients(frozen.named_parameters())
    assert given.names == ["bias"]
    assert issubclass(ALL["mgda"], GradientAggregator)
