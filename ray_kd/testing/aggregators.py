"""AggregatorConformance: what every aggregator must do, as tests that a plug-in subclasses."""

from __future__ import annotations

import copy
import io
import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ray_kd.aggregation import Aggregator, create_aggregator
from ray_kd.config.errors import UserError
from ray_kd.config.registry import AGGREGATORS
from ray_kd.testing.state import assert_same
from ray_kd.testing.toy import ON_LOGITS, STAGED, Loop, Toy


class AggregatorConformance:
    """Subclass it and name your aggregator; pytest does the rest.

    Example:
        >>> from ray_kd.plugin import AggregatorConformance
        >>> class TestMine(AggregatorConformance):
        ...     aggregator = "equal"
    """

    aggregator: ClassVar[str]
    """The registered name."""
    options: ClassVar[dict[str, Any]] = {}
    """Options to test it with."""

    @property
    def cls(self) -> type[Aggregator]:
        """The class under test."""
        found: type[Aggregator] = AGGREGATORS.get(self.aggregator)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Losses of the toy that this aggregator can be given."""
        return STAGED if self.cls.tensor is None else ON_LOGITS

    def make(self, names: tuple[str, ...] | None = None, **options: Any) -> Aggregator:
        """An aggregator for the toy's losses."""
        chosen = self.names if names is None else names
        return create_aggregator(self.aggregator, names=chosen, **{**self.options, **options})

    def loop(
        self, seed: int = 0, lr: float = 0.05, names: tuple[str, ...] | None = None, **options: Any
    ) -> Loop:
        """A training loop of a fresh toy under a fresh aggregator."""
        return Loop(self.make(names, **options), Toy(seed), self.names if names is None else names, lr=lr)

    def test_names_and_factors(self) -> None:
        loop = self.loop()
        update = loop.step()
        paths = tuple(dict.fromkeys(name.partition("/")[0] for name in self.names))
        assert update.names == loop.aggregator.names == paths
        assert update.factors.shape == (len(paths),)
        assert not update.factors.requires_grad
        assert list(update.weights) == list(paths)
        assert all(math.isfinite(value) for value in [*update.weights.values(), *update.log.values()])

    def test_granularity_layer_weighs_every_loss(self) -> None:
        update = self.loop(granularity="layer").step()
        assert update.names == self.names
        assert update.factors.shape == (len(self.names),)

    def test_backward_fills_what_is_upstream(self) -> None:
        loop = self.loop()
        update = loop.step()
        for name in ("stem", "deep", "head"):
            gradient = loop.toy.layer(name).weight.grad
            assert gradient is not None, name
            assert gradient.isfinite().all(), name
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in loop.toy.student.parameters())
        assert loop.toy.layer("spare").weight.grad is None
        if update.weights.get("hint", 0) > 0:
            assert loop.toy.adapter.weight.grad is not None

    def test_factors_describe_the_update(self) -> None:
        if "direction" in self.cls.traits:
            return
        loop = self.loop(lr=0)
        for _ in range(3):
            update = loop.step()
        task, losses = loop.toy(self.names)
        total = task * update.log.get("task_factor", 1.0)
        for index, (path, members) in enumerate(loop.aggregator.groups.items()):
            factor = float(update.factors[index])
            assert factor == update.weights[path]
            total = total + factor * sum(losses[self.names[member]] for member in members)
        weights = [loop.toy.layer("stem").weight, loop.toy.layer("head").weight]
        wanted, got = torch.autograd.grad(total, weights), [weight.grad for weight in weights]
        torch.testing.assert_close(got, list(wanted), rtol=1e-4, atol=1e-6)

    def test_order_of_paths_does_not_matter(self) -> None:
        if "stochastic" in self.cls.traits:
            return
        turned = tuple(reversed(self.names))
        one, other = self.loop(granularity="layer"), self.loop(granularity="layer", names=turned)
        for ours, theirs in zip(one.steps(5), other.steps(5), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)

    def test_state_goes_on_exactly(self) -> None:
        loop = self.loop()
        loop.steps(5)
        buffer = io.BytesIO()
        torch.save(loop.aggregator.state_dict(), buffer)
        buffer.seek(0)
        fresh = self.make(seed=99)
        fresh.load_state_dict(torch.load(buffer, weights_only=True))
        toy = Toy()
        toy.load_state_dict(loop.toy.state_dict())
        other = Loop(fresh, toy, self.names)
        for ours, theirs in zip(other.optimizers, loop.optimizers, strict=True):
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        other.taken = loop.taken
        assert other.steps(4) == loop.steps(4)
        for one, same in zip(other.toy.parameters(), loop.toy.parameters(), strict=True):
            assert torch.equal(one, same)

    def test_stateless_unless_declared(self) -> None:
        if {"stateful", "stochastic"} & self.cls.traits:
            return
        loop = self.loop(lr=0)
        first = loop.step().weights
        loop.steps(2)
        loop.step(lambda task, losses: losses.update({name: 2 * loss for name, loss in losses.items()}))
        assert loop.step().weights == first

    def test_one_path(self) -> None:
        name = "soft"
        loop = self.loop(names=(name,))
        for _ in range(3):
            update = loop.step()
            assert update.names == (name,)
            assert math.isfinite(update.weights[name])

    def test_no_paths_is_plain_training(self) -> None:
        toy = Toy()
        task, _ = toy(())
        update = self.make(())(task, {}, toy.gradients())
        update.backward()
        assert update.total is task
        assert update.weights == {}
        for parameter, wanted in zip(
            toy.student.parameters(),
            torch.autograd.grad(toy(())[0], list(toy.student.parameters()), allow_unused=True),
            strict=True,
        ):
            assert (parameter.grad is None) == (wanted is None)
            assert wanted is None or torch.equal(parameter.grad, wanted)  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [0.0, -0.5])
    def test_loss_at_or_below_zero(self, value: float) -> None:
        loop = self.loop()

        def change(task: Tensor, losses: dict[str, Tensor]) -> None:
            losses["soft"] = (
                losses["soft"] * 0 if value == 0 else losses["soft"] - losses["soft"].detach() + value
            )

        refusal = ""
        for _ in range(3):
            try:
                update = loop.step(change)
            except UserError as error:
                refusal = str(error)
                break
            assert update.factors.isfinite().all()
        assert not refusal or (value < 0 and "soft" in refusal)
        assert all(p.isfinite().all() for p in loop.toy.parameters())

    def test_nan_is_never_dropped(self) -> None:
        loop = self.loop()
        loop.step()

        def change(task: Tensor, losses: dict[str, Tensor]) -> None:
            losses["soft"] = losses["soft"] * math.nan

        loop.step(change)
        assert any(p.isnan().any() for p in loop.toy.student.parameters())

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("where", ["task", "path", "after"])
    def test_a_step_that_is_not_finite_changes_no_state(self, where: str, value: float) -> None:
        """Skip the optimizer after such a step, and training goes on as if it had not been."""
        loop, other = self.loop(), self.loop()
        for one in (loop, other):
            one.steps(4)
        before = copy.deepcopy(loop.aggregator.state_dict())
        toy = loop.toy
        task, losses = toy(self.names)
        worst = {**losses, self.names[-1]: losses[self.names[-1]] * value}
        spoilt = (task * value if where == "task" else task, losses if where != "path" else worst)
        gradients = toy.gradients()
        gradients.evaluate = lambda same, placebo: (spoilt[1], spoilt[1])
        if where != "after":
            update = loop.aggregator(*spoilt, gradients)
            update.backward()
            found = [p.grad for p in toy.student.parameters() if p.grad is not None]
            assert any(not gradient.isfinite().all() for gradient in found), "the step looks sound"
        loop.aggregator.after_step(lambda: {name: loss.detach() for name, loss in worst.items()})
        loop.aggregator.begin_epoch(dict.fromkeys(loop.aggregator.names, value))
        assert_same(loop.aggregator.state_dict(), before)
        assert loop.steps(4) == other.steps(4)

    def test_nothing_is_learnt_from_an_empty_batch(self) -> None:
        """Means over no samples are NaN: the student's gradient is NaN or 0, and the total is NaN."""
        toy = Toy()
        task, losses = toy(self.names, slice(0, 0))
        update = self.make()(task, losses, toy.gradients())
        update.backward()
        assert update.total is None or update.total.isnan()
        for parameter in toy.student.parameters():
            gradient = parameter.grad
            assert gradient is None or bool(((gradient == 0) | gradient.isnan()).all())

    def test_paths_with_nothing_to_compare_leave_the_task(self) -> None:
        """Every path at a connected 0 (no positives, no valid pixels): the direction is the task's."""
        loop = self.loop(lr=0)

        def change(task: Tensor, losses: dict[str, Tensor]) -> None:
            losses.update({name: loss * 0 for name, loss in losses.items()})

        update = loop.step(change)
        assert update.factors.isfinite().all()
        weight = loop.toy.layer("deep").weight
        (wanted,) = torch.autograd.grad(loop.toy(self.names)[0], weight)
        assert weight.grad is not None
        cosine = torch.cosine_similarity(weight.grad.flatten(), wanted.flatten(), dim=0)
        assert cosine.item() == pytest.approx(1, abs=1e-5)

    def test_k_scales_the_distillation_part(self) -> None:
        one, double, none = (self.loop(lr=0, k=k) for k in (1, 2, 0))
        for _ in range(3):
            single, twice, zero = one.step(), double.step(), none.step()
            torch.testing.assert_close(twice.factors, 2 * single.factors)
            assert twice.log.get("task_factor") == single.log.get("task_factor")
            assert (zero.factors == 0).all()

    def test_static_weights(self) -> None:
        paths = {name.partition("/")[0]: 3.0 for name in self.names}
        if self.cls.static_weights == "refused":
            with pytest.raises(UserError, match="weight"):
                self.make(weights=paths)
            return
        uneven = {name: 3.0 + index for index, name in enumerate(paths)}
        ours = self.loop().step().factors
        assert not torch.allclose(ours, self.loop(weights=uneven).step().factors, rtol=1e-3)
        if self.cls.static_weights == "preference":
            torch.testing.assert_close(3 * ours, self.loop(weights=paths).step().factors)

    def test_global_stream_is_left_alone(self) -> None:
        loop = self.loop()
        before = torch.get_rng_state()
        loop.steps(2)
        assert torch.equal(before, torch.get_rng_state())

    def test_wrong_losses_are_named(self) -> None:
        toy = Toy()
        task, losses = toy(self.names)
        losses["elsewhere"] = losses.pop(self.names[0])
        with pytest.raises(UserError, match="elsewhere"):
            self.make()(task, losses, toy.gradients())

    def test_seed_matters_where_declared(self) -> None:
        one, same, other = self.loop(), self.loop(), self.loop()
        other.aggregator = self.make(seed=1)
        same.aggregator = self.make(seed=0)
        first = one.steps(20)
        assert first == same.steps(20)
        assert (first != other.steps(20)) == ("stochastic" in self.cls.traits)

    def test_signs_as_declared(self) -> None:
        factors = torch.tensor([list(step.values()) for step in self.loop().steps(20)])
        assert "signed" in self.cls.traits or (factors >= 0).all()

    def test_scale_free_as_declared(self) -> None:
        """Where a method undoes the scale of a loss, a loss times 8 contributes as before."""
        if "scale_free" not in self.cls.traits:
            return
        plain, scaled = self.loop(lr=0), self.loop(lr=0)
        for optimizer in (*plain.optimizers, *scaled.optimizers):
            for group in optimizer.param_groups[1:]:
                group["lr"] = 0.1

        def change(task: Tensor, losses: dict[str, Tensor]) -> None:
            losses["soft"] = 8 * losses["soft"]

        for _ in range(400 if "stateful" in self.cls.traits else 2):
            ours, theirs = plain.step(), scaled.step(change)
        assert 8 * theirs.weights["soft"] == pytest.approx(ours.weights["soft"], rel=0.02)

    def test_double_precision(self) -> None:
        toy = Toy(dtype=torch.float64)
        loop = Loop(self.make().double(), toy, self.names)
        loop.steps(3)
        assert all(p.isfinite().all() for p in toy.parameters())

    def test_device(self) -> None:
        """On an accelerator where there is one; the decision is the CPU's, to float precision."""
        if not torch.cuda.is_available() or "stochastic" in self.cls.traits:
            return
        there = Loop(self.make().cuda(), Toy(device="cuda"), self.names)
        for ours, theirs in zip(self.loop().steps(3), there.steps(3), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-4)
