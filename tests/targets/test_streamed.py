"""Runs whose targets are read out of the shards equal runs on the copy; no Ray here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import Batches
from ray_kd.data.loading import Failure, Request
from ray_kd.data.streaming import LoadedRows
from ray_kd.storage import Store
from ray_kd.targets.batch_reader import Reader, Reading
from ray_kd.training.build import build
from ray_kd.training.distill import distill
from ray_kd.training.loaders import make_loader
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Interrupted
from ray_kd.training.run_context import RunContext, local_context
from tests.data.formats import make_folder
from tests.helpers import tiny
from tests.s3 import S3Server

CPU = torch.device("cpu")
UNTAUGHT = {"model": {"name": "digits_cnn", "width": 4}, "weights": "initial"}
PATHS = ["soft_target", {"name": "nst", "corrupt": "shuffle"}]


class Stream:
    """A stream that is read here, when it is asked for; stops a run after so many answers."""

    def __init__(self, context: RunContext, stop_at: int | None = None) -> None:
        self.context, self.stop_at, self.taken, self.closed = context, stop_at, 0, 0

    def __call__(
        self, reading: Reading, requests: Iterator[Request], readers: int
    ) -> Iterator[tuple[Request, LoadedRows]]:
        reader = Reader(reading)
        try:
            for request in requests:
                self.taken += 1
                if self.taken == self.stop_at:
                    self.context.stop.set()
                try:
                    yield request, reader(request)
                except UserError as error:
                    yield request, Failure(str(error))
        finally:
            self.closed += 1


def spec_of(storage: Path, read: str, files: bool = False, **changes: Any) -> RunSpec:
    if files:
        root = storage.parent / "images"
        if not root.exists():
            make_folder(root, 12)
        changes = {
            "dataset": {"name": "image_folder", "root": str(root), "size": 8, "validation": 0.2},
            "views": {"name": "photo", "count": 2, "mixed": 0.5, "cutmix": 1.0},
            "training": {"epochs": 3, "batch_size": 4},
            **changes,
        }
    targets = {"source": "stored", "read": read, **changes.pop("targets", {})}
    return tiny(storage, **{"teacher": UNTAUGHT, "paths": PATHS, **changes}, targets=targets)


def ended(spec: RunSpec, context: RunContext | None = None) -> tuple[bytes, dict[str, Any]]:
    """A run's weights and figures."""
    summary = distill(spec, context=context)
    folder = Path(spec.storage) / "runs" / summary["identity"]
    return (folder / "student.safetensors").read_bytes(), summary["last"]


@pytest.mark.parametrize("files", [False, True], ids=["in memory", "files"])
def test_a_streamed_run_is_the_mapped_run_bit_for_bit_and_goes_on_within_an_epoch(
    files: bool, tmp_path: Path
) -> None:
    mapped, spec = spec_of(tmp_path / "m", "mapped", files), spec_of(tmp_path / "s", "stream", files)
    assert mapped.identity() == spec.identity()
    expected = ended(mapped)
    context = local_context(spec)
    stream = context.stream = Stream(context, stop_at=2)
    with pytest.raises(Interrupted, match="in epoch"):
        distill(spec, context=context)
    assert stream.closed == 1
    context.stop.clear()
    assert ended(spec, context) == expected
    assert stream.closed == 2
    assert stream.taken == (3 * 4 if files else 3 + 1), "each batch once, but for the one that was cut"
    assert not (tmp_path / "s" / "targets" / "mapped").exists()


def test_without_a_stream_the_run_reads_the_shards_itself(tmp_path: Path) -> None:
    order = {"training": {"epochs": 3, "batch_size": 30, "order": {"block": 10, "window": 3}}}
    found = [ended(spec_of(tmp_path / read, read, **order)) for read in ("mapped", "stream")]
    assert found[0] == found[1]
    assert found[0][0] != ended(spec_of(tmp_path / "all", "mapped"))[0], "another order, other weights"


def test_on_an_object_store(tmp_path: Path, s3: S3Server) -> None:
    near = spec_of(tmp_path / "near", "stream")
    expected = ended(near)
    far = near.model_copy(update={"storage": s3.uri("streamed")})
    context = local_context(far)
    context.stream = Stream(context)
    summary = distill(far, context=context)
    assert summary["last"] == expected[1]
    store = Store(far.storage)
    assert store.read(f"runs/{summary['identity']}/student.safetensors") == expected[0]
    assert len([path for path in store.sizes("targets") if path.endswith(".parquet")]) == 3 + 2


def test_a_start_asks_as_often_where_there_are_more_shards(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One listing, and a note of each size of shard; no shard is opened before its targets are needed."""
    requests, shards = [], []
    for number, size in enumerate((12_000, 3_000)):
        monkeypatch.setattr("ray_kd.targets.layout.SHARD_BYTES", size)
        storage = s3.uri(f"start-{number}")
        spec = spec_of(Path("unused"), "stream", targets={"held": 64})
        spec = spec.model_copy(update={"storage": storage})
        context = local_context(spec)
        distill(spec, context=context)
        shards.append(sum(path.endswith(".parquet") for path in Store(storage).sizes("targets")))
        s3.seen.clear()
        build(spec, context, ProcessCache())
        assert s3.count(key=r"\.parquet$") == 0
        requests.append(s3.count("GET", "HEAD"))
    assert shards[1] > 2 * shards[0]
    assert requests[0] == requests[1]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few rows."""
    monkeypatch.setattr("ray_kd.targets.layout.SHARD_BYTES", 400)


@pytest.mark.usefixtures("small")
def test_an_order_over_more_shards_than_are_kept_is_refused_with_one_that_does(tmp_path: Path) -> None:
    def run(**changes: Any) -> RunSpec:
        targets = {"held": 4, **changes.pop("targets", {})}
        return spec_of(tmp_path / "r", "stream", paths=["soft_target"], targets=targets, **changes)

    with pytest.raises(UserError, match=r"reads from \d+ shards.*training\.order=\{block: (\d+)") as told:
        distill(run())
    block, window, held = (
        int(str(told.value).split(f"{name}")[1].split(end)[0])
        for name, end in (("block: ", ","), ("window: ", "}"), ("targets.held=", ","))
    )
    order = {"training": {"epochs": 1, "batch_size": 30, "order": {"block": block, "window": window}}}
    assert distill(run(**order, targets={"held": held}))["status"] == "finished"
    mapped = spec_of(tmp_path / "r", "mapped", paths=["soft_target"])
    assert distill(mapped)["status"] == "finished", "a copy is read in any order"


@pytest.mark.usefixtures("small")
def test_a_damaged_shard_ends_the_run_with_what_to_do(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "r", "stream", paths=["soft_target"], targets={"held": 99})
    context = local_context(spec)
    context.stream = Stream(context)
    build(spec, context, ProcessCache())
    shard = sorted((tmp_path / "r").glob("targets/*/*/v001-p002.parquet"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match=rf"{shard.name} is damaged.*precompute"):
        distill(spec, context=context)


@pytest.mark.parametrize("read", ["mapped", "stream"])
def test_another_teacher_is_noticed_by_a_run_that_finds_every_shard(read: str, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "r", "stream")
    build(spec, local_context(spec), ProcessCache())
    said = next((tmp_path / "r" / "targets").glob("*/store.json"))
    weights = Store(tmp_path).read_json(f"r/targets/{said.parent.name}/store.json")["weights"]
    said.write_text(said.read_text().replace(weights, "0" * 16))
    with pytest.raises(UserError, match="trained again"):
        build(spec_of(tmp_path / "r", read), local_context(spec), ProcessCache())


def test_what_was_not_announced_is_never_read_for_another(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "r", "stream")
    context = local_context(spec)
    context.stream = Stream(context)
    parts = build(spec, context, ProcessCache())
    batches = Batches(parts.dataset.train, parts.views, 30, 0, CPU, loader=make_loader(spec, parts, context))
    alone = next(batches.epoch(1))
    assert "stored/0" not in alone, "before anything is announced the loader reads by itself"
    batches.announce(0, 0, 2)
    first = next(batches.epoch(0))
    assert "stored/0" in first
    apart = {name: value for name, value in first.items() if not name.startswith("stored/")}
    for label, entries in parts.targets.targets(first).items():
        for entry, value in entries.items():
            assert torch.equal(value, parts.targets.targets(apart)[label][entry])
    with pytest.raises(RuntimeError, match="not announced"):
        next(batches.epoch(0))
