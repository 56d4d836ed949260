"""``Distiller``: a loop of one's own is a run's loop bit for bit, in several processes, and resumed."""

from __future__ import annotations

import copy
import doctest
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ray_kd.training.distiller
from ray_kd import Distiller, distill
from ray_kd.config.errors import UserError
from ray_kd.data.batches import Batches
from ray_kd.training.build import build
from ray_kd.training.object_records import Own
from ray_kd.training.open_step import OpenStep
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.training.schedule import learning_rate
from tests.helpers import tiny
from tests.training.loops import PATHS, UNWEIGHTED, UTILITY, Batch, Net, data, made, state_of, take, train
from tests.training.runs import assert_same, lines, weights

# Every tier and kind: (aggregation, paths)
KINDS: list[tuple[Any, list[Any]]] = [
    ("equal", UNWEIGHTED),
    ("fixed", PATHS),
    ("dwa", PATHS),
    ({"name": "adaptive", "granularity": "layer"}, PATHS),
    ({"name": "adaptive", "verbatim": True}, PATHS),
    ({"name": "uncertainty", "verbatim": True}, PATHS),
    ("random", PATHS),
    ("famo", PATHS),
    ("mgda", UNWEIGHTED),
    ("gradnorm", PATHS),
    ("dot", PATHS),
    (UTILITY, PATHS),
    ("fixed", [{"name": "soft_target", "corrupt": "noise"}, "crd"]),
    ("fixed", []),
]


def called(kind: Any) -> str:
    aggregation, paths = kind
    name = aggregation if isinstance(aggregation, str) else "-".join(map(str, aggregation.values()))
    return f"{name}-{len(paths)}"


@pytest.mark.parametrize("kind", KINDS, ids=called)
def test_a_loop_of_ones_own_is_distill_bit_for_bit(tmp_path: Path, kind: Any) -> None:
    """With dropout, BatchNorm, clipping, a learning rate that falls: the same student and the same means."""
    aggregation, paths = kind
    optimizer = {"lr": 0.05, "clip": 2.0}
    spec = tiny(tmp_path, paths=paths, aggregation=aggregation, optimizer=optimizer, seed=3)
    summary = distill(spec, student=Net(1, 0.3, True), teacher=Net(2))

    student, context = Net(1, 0.3, True), local_context(spec)
    torch.set_num_threads(spec.training.threads)
    parts = build(spec, context, ProcessCache(), Own(student=Net(), teacher=Net()))
    batches = Batches(parts.dataset.train, parts.views, 30, spec.seed, context.device)
    steps, epochs = batches.steps, spec.training.epochs
    distiller = Distiller(
        student,
        Net(2),
        paths=paths,
        aggregation=aggregation,
        steps=epochs * steps,
        clip=2.0,
        seed=3,
    )
    sgd = distiller.optimizer(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        sgd, lambda step: learning_rate(spec.schedule, 1.0, step, steps, epochs)
    )
    for epoch in distiller.epochs(epochs):
        assert distiller.last_epoch is None or distiller.last_epoch["epoch"] == epoch
        for batch in batches.epoch(epoch):
            with distiller.step(sgd) as step:
                step(batch)
            schedule.step()
    assert_same(weights(tmp_path, summary), student.state_dict())
    assert distiller.last_epoch is not None
    if paths:
        last = [row for row in lines(tmp_path, summary["identity"], "paths") if row["epoch"] == epochs]
        assert distiller.last_epoch["paths"] == last
    assert lines(tmp_path, summary["identity"])[-1]["train"]["task_loss"] == distiller.last_epoch["task_loss"]


@pytest.mark.parametrize(
    "aggregation", ["dwa", {"name": "adaptive", "verbatim": True}, {"name": "uncertainty", "verbatim": True}]
)
def test_what_a_forgotten_hook_would_leave_constant_moves(aggregation: Any) -> None:
    distiller, sgd = made(40, aggregation)
    before = train(distiller, sgd, data(10), 4, until=1).weights
    after = train(distiller, sgd, data(10), 4).weights
    assert all(before[name] != after[name] for name in before)


def test_dot_gets_its_own_form_of_sgd() -> None:
    ends = []
    for aggregation in ("fixed", "dot"):
        distiller, sgd = made(8, aggregation, [{"name": "soft_target"}])
        assert isinstance(sgd, torch.optim.Optimizer)
        train(distiller, sgd, data(), 2)
        ends.append(state_of(distiller))
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


# Accumulation


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind[0] not in ("mgda", "gradnorm", "dot", UTILITY)][:-2], ids=called
)
def test_several_calls_are_one_batch(kind: Any) -> None:
    """Three calls of different sizes, up to float order; the aggregator sees the means over all samples."""
    aggregation, paths = kind[0], ["logits", *kind[1][:2]]  # nst's adapters have BatchNorm
    whole, parts = made(8, aggregation, paths), made(8, aggregation, paths)
    one, several = train(*whole, data(), 2), train(*parts, data(), 2, calls=(6, 4, 2))
    for name, value in state_of(whole[0]).items():
        torch.testing.assert_close(state_of(parts[0])[name], value, rtol=1e-4, atol=1e-6)
    assert several.losses == pytest.approx(one.losses, rel=1e-4)
    assert several.weights == pytest.approx(one.weights, rel=1e-4)


def test_activations_of_one_call_are_kept_and_statistics_move_once_a_call() -> None:
    """From the second call on they are computed again, with the same dropout, and change nothing else."""
    kept = []
    for calls in (1, 4):
        student = Net(1, 0.3, True)
        distiller, sgd = made(None, student=student)
        for _ in distiller.epochs(1):
            sizes: list[int] = []
            with (
                distiller.step(sgd) as step,
                torch.autograd.graph.saved_tensors_hooks(
                    lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor,  # type: ignore[func-returns-value]
                    lambda tensor: tensor,
                ),
            ):
                for batch in data(calls):
                    step(batch)
                kept.append(sum(sizes))
            assert student.norm.num_batches_tracked == calls
            frozen = copy.deepcopy(student.norm.running_mean)
        mean = torch.zeros(4)
        twin = Net(1)
        for batch in data(calls):
            mean = mean.lerp(twin.one(batch["image"]).mean((0, 2, 3)).detach(), 0.1)
        torch.testing.assert_close(frozen, mean)
    assert kept[1] < 1.5 * kept[0]


@pytest.mark.parametrize(
    ("aggregation", "paths", "named"),
    [("mgda", UNWEIGHTED, "'mgda' needs the gradient of every loss"), ("fixed", ["crd"], "'crd' remembers")],
)
def test_a_second_call_is_refused_where_it_would_be_another_step(
    aggregation: Any, paths: Any, named: str
) -> None:
    distiller, sgd = made(8, aggregation, paths)
    before = state_of(distiller)
    with pytest.raises(UserError, match=named):
        train(distiller, sgd, data(), 2, calls=(6, 6))
    after = state_of(distiller)
    student = [name for name in before if name.startswith("student")]
    assert_same({name: before[name] for name in student}, {name: after[name] for name in student})


# Resuming, and what an error leaves


@pytest.mark.parametrize("after", [3, 5, 8])
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind[0] in ("dwa", "famo", "gradnorm", "dot", UTILITY)], ids=called
)
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path, kind: Any, after: int) -> None:
    """In the middle of an epoch and at its end; nothing but the state's file goes over."""
    aggregation, paths = kind
    whole = made(12, aggregation, paths, Net(1, 0.3, True))
    train(*whole, data(), 3)
    first = made(12, aggregation, paths, Net(1, 0.3, True))
    train(*first, data(), 3, until=after)
    torch.save(first[0].state_dict(), tmp_path / "state.pt")
    torch.rand(3)
    second = made(12, aggregation, paths, Net(7, 0.3, True))
    second[0].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(*second, data(), 3)
    assert_same(state_of(whole[0]), state_of(second[0]))
    assert whole[0].last_epoch == second[0].last_epoch


def test_a_state_needs_the_optimizer() -> None:
    state = made()[0].state_dict()
    with pytest.raises(UserError, match="make the optimizer first"):
        Distiller(Net(), Net(), paths=PATHS, steps=8).load_state_dict(state)


@pytest.mark.parametrize("aggregation", ["famo", "adaptive", UTILITY])
def test_an_error_in_the_block_takes_no_half_step(aggregation: Any) -> None:
    def loop(fails: int | None) -> dict[str, Tensor]:
        distiller, sgd = made(8, aggregation, student=Net(1, 0.3))
        for _ in distiller.epochs(2):
            for batch in data():
                if distiller.engine.taken == fails:
                    before = copy.deepcopy(distiller.state_dict())
                    failed = fail_within(distiller, sgd, batch)
                    assert all(parameter.grad is None for parameter in distiller.engine.trained)
                    assert_same(before["student"], distiller.state_dict()["student"])
                    with pytest.raises(UserError, match="once its block was left without an error"):
                        _ = failed.weights
                with distiller.step(sgd) as step:
                    step(batch)
        return {name: value for name, value in state_of(distiller).items() if "running" not in name}

    def fail_within(distiller: Distiller, sgd: Any, batch: Batch) -> OpenStep:
        step = distiller.step(sgd)
        try:
            with step:
                step(batch)
                raise KeyError
        except KeyError:
            return step

    whole, failed = loop(None), loop(3)
    assert_same(
        *({name: one for name, one in end.items() if "num_batches" not in name} for end in (whole, failed))
    )


def test_the_callers_generator_stays_as_it_was() -> None:
    distiller, sgd = made(student=Net(1, 0.3))
    torch.manual_seed(11)
    state = torch.get_rng_state()
    train(distiller, sgd, data(), 2)
    assert torch.equal(state, torch.get_rng_state())


class Waits(TorchDispatchMode):
    """Counts reads of single numbers, each of which waits for the device."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("aggregation", ["fixed", "dwa", "famo"])
def test_a_step_waits_for_the_device_as_often_as_the_engine_alone(aggregation: str) -> None:
    counts = []
    distiller, sgd = made(None, aggregation)
    for _ in distiller.epochs(1):
        take(distiller, sgd)
        with Waits() as waits:
            take(distiller, sgd)
        counts.append(waits.count)
        batch, engine = data()[0], distiller.engine
        distiller._updating = True
        with Waits() as waits:
            engine.begin()
            engine.add(batch, distiller._targets.targets(batch))
            engine.finish()
        counts.append(waits.count)
    assert counts[0] == counts[1]
    assert counts[0] == 0 or aggregation != "fixed"


# Several processes


def rank_main(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for index, (aggregation, calls) in enumerate(RANKED):
        student = Net(1 + rank, norm=True)  # rank 0's weights are the ones
        distiller, sgd = made(8, aggregation, UNWEIGHTED, student)
        halves = [{key: value.chunk(2)[rank] for key, value in batch.items()} for batch in data()]
        train(distiller, sgd, halves, 2, calls=calls)
        torch.save((state_of(distiller), distiller.last_epoch), f"{folder}/{index}.{rank}")
    dist.destroy_process_group()


RANKED: list[tuple[Any, tuple[int, ...]]] = [("adaptive", ()), ("mgda", ()), ("dwa", (3, 3)), (UTILITY, ())]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_ranks_are_one(tmp_path: Path) -> None:
    """Losses, weights and BatchNorm are those of the global batch; with several calls too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(rank_main, args=(port, str(tmp_path)), nprocs=2)
    for index, (aggregation, calls) in enumerate(RANKED):
        one, other = (torch.load(tmp_path / f"{index}.{rank}", weights_only=False) for rank in (0, 1))
        assert_same(one[0], other[0])
        distiller, sgd = made(8, aggregation, UNWEIGHTED, Net(1, norm=True))
        batches = data()
        if calls:  # the first call has the first halves of both ranks' batches
            order = torch.tensor([0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11])
            batches = [{key: value[order] for key, value in batch.items()} for batch in batches]
        train(distiller, sgd, batches, 2, calls=[2 * count for count in calls])
        for name, value in state_of(distiller).items():
            torch.testing.assert_close(
                one[0][name], value, rtol=1e-3, atol=1e-5, msg=f"{aggregation}: {name}"
            )
        assert distiller.last_epoch is not None
        for mine, theirs in zip(distiller.last_epoch["paths"], one[1]["paths"], strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
            assert mine["weight"] == pytest.approx(theirs["weight"], rel=1e-3)


def test_the_example_of_its_docstring_runs() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(
        Distiller, "Distiller", module=ray_kd.training.distiller
    )
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
