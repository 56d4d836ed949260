"""utility: what it measures, what follows from it, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ray_kd import create_aggregator
from ray_kd.aggregation import utility_evidence
from ray_kd.aggregation.probe import slopes
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.testing.toy import STAGED, Loop, Toy
from ray_kd.training.build import build
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.probing import exchanged
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from ray_kd.training.step import Step
from tests.helpers import ALL_PATHS, shifted, tiny

SHUFFLED = {"name": "soft_target", "corrupt": "shuffle", "label": "shuffled"}


def flat(parameters: list[Any], gradients: Any) -> Tensor:
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(parameters, gradients, strict=True)
        ]
    )


def test_slopes_are_the_exact_products() -> None:
    """And the parameters are as before, bit for bit, with a graph that can still be differentiated."""
    toy = Toy(dtype=torch.float64)
    parameters = list(toy.student.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    task, losses = toy()
    _, exchange = toy(exchange=1)

    def gradient(loss: Tensor) -> Tensor:
        return flat(parameters, torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))

    def evaluate(*, same: bool, placebo: bool) -> Any:
        return toy()[1], toy(exchange=1)[1]

    direction = gradient(task)
    found = slopes(parameters, direction, evaluate, STAGED, reach=1e-4, same=True, placebo=True)
    wanted = [[gradient(side[name]) @ direction for name in STAGED] for side in (losses, exchange)]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-5, atol=1e-10)
    assert all(torch.equal(one, same) for one, same in zip(before, parameters, strict=True))
    gradient(task)


def evidence_of(real: Any, placebo: Any, memory: float = 1e9) -> Any:
    known = utility_evidence.empty(real.shape[1])
    for pair in zip(real, placebo, strict=True):
        known = utility_evidence.observed(known, *pair, memory=memory)
    return known


def test_statistics_are_those_of_one_sample() -> None:
    random = np.random.default_rng(0)
    real = random.normal([0.5, 0.0, -2.0], 1.0, size=(40, 3))
    placebo = 0.3 * real + random.normal(0.0, 3.0, size=(40, 3))
    known = evidence_of(real, placebo)
    scaled = real / real.std(0, ddof=1) - placebo / placebo.std(0, ddof=1)
    for form, values in {"none": real, "plain": real - placebo, "scaled": scaled}.items():
        wanted = stats.ttest_1samp(values, 0).statistic
        np.testing.assert_allclose(utility_evidence.statistic(known, form), wanted, rtol=1e-5)
    with_gap = utility_evidence.observed(known, np.array([np.nan, 1.0, 1.0]), np.zeros(3), memory=1e9)
    assert utility_evidence.statistic(with_gap, "scaled")[0] == utility_evidence.statistic(known, "scaled")[0]


def test_exchangeable_slopes_are_no_evidence() -> None:
    """Real and placebo of one distribution, with a common bias: t is a standard normal."""
    draws = np.random.default_rng(1).normal(0.4, 1.0, size=(2, 100, 500))
    for form in ("scaled", "plain"):
        t = utility_evidence.statistic(evidence_of(*draws), form)
        assert abs(t.mean()) < 0.15
        assert t.std() == pytest.approx(1, abs=0.1)
    assert utility_evidence.statistic(evidence_of(*draws), "none").mean() > 3


def test_statistic_forgets() -> None:
    random = np.random.default_rng(0)
    real = np.array([1.0] * 100 + [-1.0] * 100)[:, None] + random.normal(size=(200, 1))
    known = evidence_of(real, random.normal(size=(200, 1)), memory=20)
    assert utility_evidence.statistic(known, "scaled")[0] < -2


def test_gates_have_hysteresis() -> None:
    def gate(before: float, t: float) -> float:
        return float(utility_evidence.gates(np.array([before]), np.array([t]), off=1.0, on=2.0)[0])

    assert gate(1, 2.0) == 1
    assert gate(1, 1.5) == 0.5
    assert gate(1, 1.0) == 0
    assert gate(0, 1.5) == 0, "what was off needs more evidence to come back"
    assert gate(0, 2.0) == 0.5
    assert gate(0, 2.5) == 1
    assert gate(0.3, 1.6) == pytest.approx(0.3), "between the two lines nothing moves"


def test_at_first_only_harm_closes_a_gate() -> None:
    before, t = np.array([1.0, 1.0, 0.0, 0.0]), np.array([-1.9, -2.0, 1.9, 2.1])
    assert utility_evidence.guilty(before, t, harm=-2.0, on=2.0).tolist() == [1, 0, 0, 1]


def test_less_harmful_than_the_placebo_is_harmful() -> None:
    random = np.random.default_rng(0)
    aggregator = create_aggregator("utility", names=["a"])
    real, placebo = random.normal(-0.6, 1, size=(100, 1)), random.normal(-1.6, 1, size=(100, 1))
    aggregator.memory["evidence"] = evidence_of(real, placebo)
    assert utility_evidence.statistic(aggregator.memory["evidence"], "scaled")[0] > 4
    assert aggregator.t[0] < aggregator.options.t_off


def test_a_loop_without_evaluate_is_told_what_to_provide() -> None:
    toy = Toy()
    aggregator = create_aggregator("utility", names=list(STAGED), dense_every=2)
    for due in (False, True):
        task, losses = toy()
        if not due:
            aggregator(task, losses, toy.gradients()).backward()
            continue
        with pytest.raises(UserError, match="evaluate"):
            aggregator(task, losses, toy.gradients())


def test_a_faded_path_is_not_felt_and_its_adapter_trains() -> None:
    """Off: the student has the gradient of the other paths, the adapter its path's at base strength."""
    toy = Toy()
    loop = Loop(create_aggregator("utility", names=list(STAGED), dense_every=3, burn_in=1000), toy, lr=0)
    base = loop.step().weights
    for _ in range(3):  # plain steps and one that measures
        loop.aggregator.memory["gates"] = np.array([0.0, 0.4, 1.0])
        assert loop.aggregator.names == ("hint", "attention", "soft")
        factors = loop.step().weights
        base |= {name: value for name, value in factors.items() if name == "soft"}
        assert factors["hint"] == 0
        assert factors["attention"] == pytest.approx(0.4 * base["attention"], rel=1e-5)
        task, losses = toy()
        felt = task + factors["soft"] * losses["soft"]
        felt = felt + factors["attention"] * (losses["attention/stage0"] + losses["attention/stage1"])
        student = [toy.layer(name).weight for name in ("stem", "deep", "head")]
        torch.testing.assert_close(
            [weight.grad for weight in student], list(torch.autograd.grad(felt, student, retain_graph=True))
        )
        (alone,) = torch.autograd.grad(losses["hint"], toy.adapter.weight)
        torch.testing.assert_close(toy.adapter.weight.grad, base["hint"] * alone)


def test_only_a_step_that_measures_puts_norms_and_cosines_on_record() -> None:
    """Norms are taken at steps 1, 2, 4, 8 too: there the cosines would be those of an earlier step."""
    aggregator = create_aggregator("utility", names=list(STAGED), dense_every=3)
    loop = Loop(aggregator, Toy(), lr=0.01)
    updates = [loop.step() for _ in range(10)]
    measured = [step for step, update in enumerate(updates, start=1) if update.cosines is not None]
    assert measured == [3, 6, 9]
    assert [
        step for step, update in enumerate(updates, start=1) if update.gradient_norms is not None
    ] == measured
    assert not torch.equal(updates[2].cosines, updates[5].cosines)


def made(tmp_path: Path, **changes: Any) -> tuple[Step, dict[str, Tensor], Any]:
    """A step of a tiny run, a batch and its targets."""
    spec = tiny(tmp_path, **{"paths": ALL_PATHS, "aggregation": "utility", **changes})
    context, cache = local_context(spec), ProcessCache()
    ensure_teachers(spec, context, cache)
    parts = build(spec, context, cache)
    step = Step(spec, parts, context, steps_per_epoch=4)
    step.module.train()
    batch = parts.dataset.train.gather(torch.arange(40))
    return step, batch, parts.targets.targets(batch)


def test_looking_touches_nothing(tmp_path: Path) -> None:
    step, batch, targets = made(tmp_path, training={"epochs": 2, "batch_size": 40})
    for _ in range(3):
        step(batch, dict(targets))
    before = {name: value.clone() for name, value in step.module.state_dict().items()}
    stream = torch.get_rng_state()
    found = [step.probe(batch, targets, same=same, placebo=True) for same in (True, False)]
    assert found[0] == found[1], "the batch before is the same one here"
    assert torch.equal(stream, torch.get_rng_state())
    for name, value in step.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        _, losses, _ = step.module(batch, targets)
    for name, loss in losses.items():
        torch.testing.assert_close(found[0][0][name], loss)
        assert found[0][1][name] != loss


def test_targets_are_exchanged_for_a_strangers() -> None:
    sample = torch.tensor([7, 3, 5, 1])
    (turned,) = exchanged({"p": {"t": sample * 10}}, {"sample": sample})["p"].values()
    assert turned.tolist() == [10, 50, 70, 30]


STUDENTS = range(3)
"""Seeds of the students of each test below: one training is an accident, the mean of three is not."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the one teacher of all of them."""
    return tmp_path_factory.mktemp("storage")


def digits(storage: Path, shift: int, paths: list[Any], epochs: int, **aggregation: Any) -> list[RunSpec]:
    """Students of 200 digits under utility, four steps an epoch, two of them measured."""
    run = {
        "dataset": {"name": "digits", "labels": 200},
        "views": {"name": "shift", "count": 4},
        "student": {"name": "digits_cnn", "width": 3},
        "teacher": {
            "model": {"name": "digits_cnn", "width": 12},
            "views": {"name": "affine"},
            "training": {"epochs": 12, "batch_size": 50},
        },
        "paths": paths,
        "aggregation": {"name": "utility", "dense_every": 2, **aggregation},
        "optimizer": {"lr": 0.05},
        "training": {"epochs": epochs, "batch_size": 50, "evaluate_every": 100},
        "storage": str(storage),
    }
    return [shifted(RunSpec.parse({**run, "seed": seed}), shift) for seed in STUDENTS]


def rows_of(spec: RunSpec) -> list[dict[str, Any]]:
    file = Path(spec.storage) / "runs" / spec.identity() / "paths.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.outcome
def test_a_harmful_path_is_switched_off_and_a_useful_one_is_not(storage: Path, seed_shift: int) -> None:
    """While the teacher has something to teach: figures are means over the last 10 of 25 epochs, all judged.

    Over the seeds tried a useful path's t is 3 to 6 there, that of the others -3 to 1; in training for longer
    the first falls too, as the student comes to fit its labels (docs/utility.md, Where it fails).
    """
    noise = {"name": "attention_transfer", "corrupt": "shuffle", "label": "noise"}
    late: dict[str, list[list[float]]] = {"t": [], "gate": [], "share": []}
    for spec in digits(storage, seed_shift, ["soft_target", SHUFFLED, noise], epochs=25, burn_in=30):
        distill(spec)
        rows = rows_of(spec)
        assert [row["measurements"] for row in rows[::3]] == [2.0 * epoch for epoch in range(1, 26)]
        assert {row["gate"] for row in rows[: 3 * 3]} == {1.0}, "no judgement without evidence"
        for row in rows:
            assert (row["share"] > 0) == (row["gate"] > 0)
            if row["measurements"] >= 30:
                assert row["gate"] == 0 or row["t"] > 1
                assert row["gate"] == 1 or row["t"] < 2.5
        assert sum(row["share"] for row in rows[-3:]) in (0, pytest.approx(1))
        for name, values in late.items():
            values.append([np.mean([row[name] for row in rows[i::3][-10:]]) for i in range(3)])
    useful, harmful, useless = np.mean(late["t"], axis=0)
    assert useful > 2 > 1 > max(harmful, useless)
    useful, harmful, useless = np.mean(late["gate"], axis=0)
    assert useful > 0.7
    assert max(harmful, useless) < 0.3
    useful, harmful, useless = np.mean(late["share"], axis=0)
    assert useful > 0.6 > 0.2 > max(harmful, useless)


@pytest.mark.outcome
def test_a_path_comes_back_when_it_is_mended(storage: Path, seed_shift: int) -> None:
    """Off while it is spoilt, in epochs 6 to 15, and on again afterwards for some time, if not for good.

    The highest gate it has again is 0.6 to 1, over the students tried; of one that is not mended, 0 to 0.1.
    """
    spoilt, mended = [], []
    for spec in digits(storage, seed_shift, [SHUFFLED], epochs=30, burn_in=10, memory=15):
        context = local_context(spec)
        ensure_teachers(spec, context, ProcessCache())
        training = Training(spec, context)
        for record in training.epochs():
            if record["epoch"] == 15:
                assert training._step is not None
                training._step.corrupted = []
        gates = [row["gate"] for row in rows_of(spec)]
        spoilt.append(np.mean(gates[5:15]))
        mended.append(max(gates[15:]))
    assert np.mean(spoilt) < 0.3
    assert np.mean(mended) > 0.5
