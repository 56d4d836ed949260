"""Rule 2: stored targets equal the live teacher's on the same view, to the stored precision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from ray_kd.config.errors import UserError
from ray_kd.config.registry import PATHS
from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import Batches
from ray_kd.storage import Store
from ray_kd.targets.compute import same_targets
from ray_kd.training.build import Parts, build
from ray_kd.training.distill import distill
from ray_kd.training.precompute import gather_work, plan_targets, precompute
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext
from ray_kd.training.verify import verify
from tests.helpers import shifted, tiny
from tests.models.small import DEIT
from tests.training.test_distributed import two_ranks

CPU = torch.device("cpu")
DENSE: dict[str, Any] = {"name": "scenes", "size": 32, "train": 24, "validation": 8, "test": 8}
TWO_STAGES = {"name": "torchvision_detector", "arch": "fasterrcnn_resnet18_fpn", "proposals": 12}
TASKS: dict[str, dict[str, Any]] = {
    "classification": {},
    "segmentation": {
        "task": "segmentation",
        "dataset": DENSE,
        "views": {"name": "none"},
        "student": {"name": "scenes_segnet", "width": 4},
        "teacher": {"model": {"name": "scenes_segnet", "width": 6}, "weights": "initial"},
        "training": {"epochs": 1, "batch_size": 8},
    },
    "detection": {
        "task": "detection",
        "dataset": DENSE,
        "views": {"name": "none"},
        "student": {"name": "scenes_detector", "width": 4},
        "teacher": {"model": {"name": "scenes_detector", "width": 8}, "weights": "initial"},
        "training": {"epochs": 1, "batch_size": 8},
    },
    "two stages": {
        "task": "detection",
        "dataset": {**DENSE, "train": 16, "validation": 1, "test": 1},
        "views": {"name": "none"},
        "student": TWO_STAGES,
        "teacher": {"model": TWO_STAGES, "weights": "initial"},
        "training": {"epochs": 1, "batch_size": 8},
    },
    "two heads": {"student": DEIT},
}
OWN_NETWORK = {"two stages": {"roi_box", "roi_logit"}, "two heads": {"distillation_token"}}
"""Paths that need a network of their own; all others stand under their task."""
Losses = dict[str, list[torch.Tensor]]
UNTAUGHT = {"model": {"name": "digits_cnn", "width": 4}, "weights": "initial"}


def parts_of(spec: RunSpec, cache: ProcessCache | None = None, rank: int = 0, world: int = 1) -> Parts:
    return build(spec, RunContext(Store(spec.storage), CPU, rank, world), cache or ProcessCache())


def losses(parts: Parts, epochs: int = 2, rank: int = 0, world: int = 1) -> Losses:
    """Every path's losses at the student's first weights, over the first epochs."""
    batches = Batches(parts.dataset.train, parts.views, 8, 0, CPU, rank, world)
    found: Losses = {}
    with torch.no_grad():
        for epoch in range(epochs):
            for batch in list(batches.epoch(epoch))[:2]:
                outputs, targets = parts.student(batch["image"]), parts.targets.targets(batch)
                for path in parts.paths:
                    for key, loss in path(outputs, targets[path.label], batch).items():  # type: ignore[index]
                        found.setdefault(key, []).append(loss)
    return found


PATHS_OF = {
    task: [
        path
        for path in PATHS.names()
        if base.get("task", "classification") in PATHS.get(path).tasks
        and path in OWN_NETWORK.get(task, set(PATHS.names()).difference(*OWN_NETWORK.values()))
    ]
    for task, base in TASKS.items()
}
PRECISIONS = {"float32": 1e-5, "float16": 1e-2}
"""And how far a loss may be off."""


def spec_of(storage: Path, task: str, paths: list[str], precision: str | None) -> RunSpec:
    """A run whose targets are stored in a precision; None: its teacher is live."""
    targets = "live" if precision is None else {"source": "stored", "precision": precision}
    return tiny(storage, **{"teacher": UNTAUGHT, "paths": paths, **TASKS[task]}, targets=targets)


def assert_same_losses(stored: Losses, live: Losses, tolerance: float) -> None:
    assert stored.keys() == live.keys()
    for key, values in live.items():
        found, expected = torch.stack(stored[key]), torch.stack(values)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-5, msg=key)


ONE_BY_ONE = [
    pytest.param(task, [path], id=f"{task}-{path}")
    for task, paths in PATHS_OF.items()
    if task != "two stages"
    for path in paths
]
LARGE = pytest.param(
    "two stages", PATHS_OF["two stages"], id="two stages", marks=[pytest.mark.slow, pytest.mark.exhaustive]
)


@pytest.mark.parametrize(("task", "paths"), [*ONE_BY_ONE, LARGE])
def test_losses_from_stored_targets_are_the_live_teachers(
    task: str, paths: list[str], tmp_path: Path
) -> None:
    cache = ProcessCache()
    live = losses(parts_of(spec_of(tmp_path, task, paths, None), cache))
    for precision, tolerance in PRECISIONS.items():
        stored = losses(parts_of(spec_of(tmp_path, task, paths, precision), cache))
        assert_same_losses(stored, live, tolerance)


def losses_main(rank: int, world: int, port: int, files: list[str]) -> None:
    """One rank of several: the losses of each spec go into a file beside it."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    cache = ProcessCache()
    for file in files:
        found = losses(parts_of(RunSpec.load(file), cache, rank, world), rank=rank, world=world)
        torch.save(found, f"{file}.rank{rank}")
    dist.destroy_process_group()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_losses_are_the_same_on_two_ranks(tmp_path: Path) -> None:
    """All paths of a task in one run. Both ranks find nothing stored, and one computes it for both."""
    kinds = (None, "float16")
    specs = [spec_of(tmp_path, task, paths, kind) for task, paths in PATHS_OF.items() for kind in kinds]
    two_ranks(specs, tmp_path, losses_main)
    for rank in (0, 1):
        found = [torch.load(tmp_path / f"spec{index}.yaml.rank{rank}") for index in range(len(specs))]
        for live, stored in zip(found[::2], found[1::2], strict=True):
            assert_same_losses(stored, live, PRECISIONS["float16"])


@pytest.mark.outcome
def test_a_stored_run_is_the_live_run(tmp_path: Path, seed_shift: int) -> None:
    """The same training to the last figure where float32 is stored; the same fidelity to the teacher."""
    paths = ["soft_target", "attention_transfer", {"name": "nst", "corrupt": "shuffle"}, "softmax_regression"]
    spec = shifted(tiny(tmp_path, paths=paths), seed_shift)
    live = distill(spec)
    targets = {"source": "stored", "precision": "float32"}
    stored = distill(RunSpec.parse({**spec.to_dict(), "targets": targets}))
    assert stored["identity"] != live["identity"]
    for name, value in live["last"]["test"].items():
        assert stored["last"]["test"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_paths_of_one_kind_share_a_column_and_a_new_path_adds_only_its_own(tmp_path: Path) -> None:
    context, cache = RunContext(Store(str(tmp_path)), CPU), ProcessCache()

    def run(*paths: Any) -> int:
        spec = tiny(tmp_path, teacher=UNTAUGHT, paths=list(paths), targets="stored")
        return precompute([spec], context, cache)

    assert run("soft_target", "logits") == 3 + 2  # three views of train; the answers on validation and test
    assert run("logits", {"name": "dkd", "temperature": 2}) == 0
    assert run("soft_target", "nst") == 3
    assert run("nst") == 0
    columns = [
        set(group.columns)
        for work in gather_work(
            [tiny(tmp_path, teacher=UNTAUGHT, paths=["nst", "logits"], targets="stored")],
            context,
            cache,
        )
        for group in work.source.store.groups()
        if group.split == work.source.split == "train"
    ]
    assert {"logits@float16"} in columns
    assert {f"nst.1/stage{stage}@float16" for stage in range(4)} in columns


def test_more_views_add_shards_and_fewer_need_none(tmp_path: Path) -> None:
    context = RunContext(Store(str(tmp_path)), CPU)

    def run(count: int) -> int:
        views = {"name": "shift", "count": count}
        spec = tiny(
            tmp_path,
            teacher=UNTAUGHT,
            paths=["logits"],
            targets="stored",
            views=views,
            training={"epochs": 9, "batch_size": 30},
        )
        return precompute([spec], context)

    assert [run(2), run(2), run(5), run(3)] == [2 + 2, 0, 3, 0]


def test_seeds_weights_and_aggregators_share_a_store(tmp_path: Path) -> None:
    def spec(**changes: Any) -> RunSpec:
        return tiny(tmp_path, targets="stored", **{"paths": ["soft_target"], **changes})

    alike = [
        spec(),
        spec(seed=3),
        spec(aggregation="adaptive"),
        spec(paths=[{"name": "soft_target", "weight": 7, "corrupt": "noise"}]),
    ]
    assert len(same_targets(alike)) == 1
    assert len(same_targets([*alike, spec(paths=["nst"]), tiny(tmp_path), spec(paths=[])])) == 2
    plan = plan_targets(
        gather_work(alike, RunContext(Store(str(tmp_path)), CPU), ProcessCache(), trained=False), alike
    )
    assert plan.trials == 4
    assert plan.total == (120 * 3 * 20) + (359 + 539) * 40


@pytest.fixture
def stored(tmp_path: Path) -> RunSpec:
    spec = tiny(tmp_path, teacher=UNTAUGHT, paths=["soft_target", "hint"], targets="stored")
    precompute([spec], RunContext(Store(str(tmp_path)), CPU))
    return spec


def folder_of(spec: RunSpec) -> Path:
    return next(path for path in (Path(spec.storage) / "targets").iterdir() if (path / "store.json").exists())


def verified(spec: RunSpec) -> list[bool]:
    context = RunContext(Store(spec.storage), CPU)
    return [one.ok for one in verify(context.store, folder_of(spec).name, context)]


def shard_of(spec: RunSpec) -> Path:
    return sorted(folder_of(spec).glob("*/v001-p000.parquet"))[0]


def test_verify_finds_a_whole_store_good(stored: RunSpec) -> None:
    found = verified(stored)
    assert len(found) == 4
    assert all(found)


def test_a_flipped_byte_is_noticed(stored: RunSpec) -> None:
    shard = shard_of(stored)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(bytes(data))
    for look in (lambda: verified(stored), lambda: parts_of(stored)):
        with pytest.raises(UserError, match=rf"{shard.name} is damaged.*precompute"):
            look()


@pytest.mark.parametrize("harm", ["truncate", "delete", "no note"])
def test_a_lost_shard_is_computed_again(stored: RunSpec, harm: str) -> None:
    shard = shard_of(stored)
    whole = shard.read_bytes()
    if harm == "truncate":
        shard.write_bytes(whole[:-100])
    else:
        (shard if harm == "delete" else shard.with_suffix(".json")).unlink()
    with pytest.raises(UserError, match=r"missing|damaged"):
        verified(stored)
    assert precompute([stored], RunContext(Store(stored.storage), CPU)) == 1
    assert shard.read_bytes() == whole
    assert all(verified(stored))


def test_a_damaged_copy_is_never_read(stored: RunSpec) -> None:
    parts_of(stored)
    copy = max(
        (Path(stored.storage) / "targets" / "mapped").rglob("*.bin"), key=lambda file: file.stat().st_size
    )
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(bytes(data))
    with pytest.raises(UserError, match=rf"{copy.name} is damaged.*Delete it"):
        losses(parts_of(stored), epochs=3)
    copy.unlink()
    losses(parts_of(stored), epochs=3)


def test_another_teacher_under_the_same_identity_is_refused(tmp_path: Path) -> None:
    spec = tiny(tmp_path, paths=["soft_target"], targets="stored")
    distill(spec)
    teacher = tmp_path / "runs" / spec.teacher_run("teacher").identity() / "best.safetensors"
    data = bytearray(teacher.read_bytes())
    data[-1] ^= 1
    teacher.write_bytes(bytes(data))
    for look in (lambda: verified(spec), lambda: parts_of(spec)):
        with pytest.raises(UserError, match=r"teacher.*other weights|weights.*trained again"):
            look()


def test_changed_views_are_another_store(stored: RunSpec, tmp_path: Path) -> None:
    other = tiny(
        tmp_path,
        teacher=UNTAUGHT,
        paths=["soft_target"],
        targets="stored",
        views={"name": "shift", "count": 3, "seed": 1},
    )
    assert precompute([other], RunContext(Store(str(tmp_path)), CPU)) == 5


def test_a_view_that_is_not_stored_is_refused(stored: RunSpec) -> None:
    parts = parts_of(stored)
    batch = next(iter(Batches(parts.dataset.train, parts.views, 8, 0, CPU).epoch(0)))
    with pytest.raises(UserError, match="view 3 is not stored"):
        parts.targets.targets({**batch, "view": torch.full((8,), 3)})
    with pytest.raises(UserError, match="a sample that is not stored"):
        parts.targets.targets({**batch, "sample": torch.full((8,), 99_999)})


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"precisions.*soft_targte.*soft_target"):
        tiny(tmp_path, paths=["soft_target"], targets={"precisions": {"soft_targte": "int8"}})
    with pytest.raises(UserError, match="source"):
        gather_work([tiny(tmp_path)], RunContext(Store(str(tmp_path)), CPU), ProcessCache())
    spec = tiny(tmp_path, paths=["soft_target"], targets="stored")
    with pytest.raises(UserError, match="own"):
        distill(spec, teacher=torch.nn.Identity())
