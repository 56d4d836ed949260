"""Every kind of file below a storage, damaged in every way: nothing that ended is lost, and the rest is said.

Cases: open-mmlab/mmdetection issue 4835 and sml2h3/dddd_trainer issue 36 (a checkpoint cut by a full disk).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from ray_kd.analysis import read_records
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.storage.damage import tell_once
from ray_kd.training.checkpoints import StoreCheckpoints
from ray_kd.training.distill import distill
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.helpers import tiny
from tests.odd_inputs.damage import WAYS, damaged
from tests.training.runs import assert_same, lines, stop_after_steps

EPOCHS = 4


@pytest.fixture(autouse=True)
def _forget_what_was_said() -> None:
    tell_once.cache_clear()


def spec_of(storage: Path, **changes: Any) -> RunSpec:
    training = {"epochs": EPOCHS, "batch_size": 30}
    return tiny(storage, paths=["logits"], training=training, checkpoints={"every_epochs": 1}, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a teacher, a finished student of live targets and one of stored ones."""
    storage = tmp_path_factory.mktemp("whole")
    distill(spec_of(storage))
    distill(spec_of(storage, targets="stored"))
    return storage


@pytest.fixture
def storage(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "results"))


def weights(storage: Path, spec: RunSpec) -> dict[str, Any]:
    return load((storage / "runs" / spec.identity() / "best.safetensors").read_bytes())  # not mapped


# Runs: what a run's own files say, and what becomes of it.


def found_again(storage: Path, file: str, way: str) -> None:
    """The run is found as it ended, and nothing is trained."""
    spec = spec_of(storage)
    summary = (storage / "runs" / spec.identity() / "summary.json").read_text()
    damaged(storage / "runs" / spec.identity() / file, way)
    told: list[Any] = []
    found = distill(spec, on_epoch=lambda *epoch: told.append(epoch))
    assert found == json.loads(summary)
    assert not told
    rows = read_records(storage).trials.set_index("identity")
    assert rows.loc[spec.identity(), "status"] == "finished"
    assert rows.loc[spec.identity(), "best_test_top1"] == found["best"]["test"]["top1"]


def marked(storage: Path, file: str, way: str) -> None:
    """Found again; and its record is marked as incomplete, that of others is not."""
    found_again(storage, file, way)
    rows = read_records(storage).trials.set_index("identity")["incomplete"]
    mine = rows.pop(spec_of(storage).identity())
    assert isinstance(mine, str)
    assert file in mine
    assert rows.isna().all()


def trained_again(storage: Path, file: str, way: str) -> None:
    """The run counts as one that never ended: it trains again, to the same weights."""
    spec = spec_of(storage)
    before = weights(storage, spec)
    damaged(storage / "runs" / spec.identity() / file, way)
    rows = read_records(storage).trials.set_index("identity")
    assert rows.loc[spec.identity(), "status"] == "missing"
    assert "summary.json is damaged" in rows.loc[spec.identity(), "reason"]
    told: list[Any] = []
    assert distill(spec, on_epoch=lambda *epoch: told.append(epoch))["status"] == "finished"
    assert len(told) == EPOCHS
    assert_same(weights(storage, spec), before)


RUN_FILES: dict[str, Callable[[Path, str, str], None]] = {
    "spec.yaml": found_again,
    "environment.json": marked,
    "epochs.jsonl": marked,
    "paths.jsonl": marked,
    "summary.json": trained_again,
    "student.safetensors": found_again,
    "best.safetensors": found_again,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", RUN_FILES)
def test_a_damaged_file_of_a_run_that_ended(storage: Path, file: str, way: str) -> None:
    RUN_FILES[file](storage, file, way)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_recorded_spec_is_no_run(storage: Path, way: str) -> None:
    file = damaged(storage / "runs" / spec_of(storage).identity() / "spec.yaml", way)
    with pytest.raises(UserError, match=r"spec\.yaml"):
        RunSpec.load(file)


@pytest.mark.parametrize("cut", [1, 9, 200])
def test_a_recorded_spec_that_lost_its_end_is_no_other_run(storage: Path, cut: int) -> None:
    file = storage / "runs" / spec_of(storage).identity() / "spec.yaml"
    assert RunSpec.load(file).identity() == spec_of(storage).identity()
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"damaged|not valid YAML"):
        RunSpec.load(file)


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, "gone"])
def test_a_teacher_whose_weights_are_damaged_trains_again_before_a_student_needs_it(
    storage: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = spec_of(storage).teacher_run("teacher")
    before = weights(storage, teacher)
    file = storage / "runs" / teacher.identity() / "best.safetensors"
    file.unlink() if way == "gone" else damaged(file, way)
    trained: list[str] = []
    summary = distill(spec_of(storage, seed=1), on_epoch=lambda spec, record: trained.append(spec.identity()))
    assert summary["status"] == "finished"
    assert trained.count(teacher.identity()) == teacher.training.epochs
    assert_same(weights(storage, teacher), before)
    assert sum("trains again" in line for line in caplog.messages) == 1


# States to go on from.


def interrupted(storage: Path, steps: int) -> tuple[Training, Path]:
    """A run with a teacher, stopped after so many steps."""
    spec = spec_of(storage, seed=2)
    training = Training(spec, local_context(spec))
    stop_after_steps(training, steps)
    return training, storage / training.directory / "checkpoints"


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_last_state_falls_back_to_the_one_before_it(
    storage: Path, tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps 4 of 16: the run is stopped in its third epoch, and the state before is that of its second."""
    training, states = interrupted(storage, steps=10)
    assert {file.name for file in states.iterdir()} == {"last.pt", "before.pt"}
    damaged(states / "last.pt", way)
    epochs: list[int] = []
    spec = training.spec
    assert distill(spec, on_epoch=lambda _, record: epochs.append(record["epoch"]))["status"] == "finished"
    assert epochs == [3, 4]
    assert [m for m in caplog.messages if "last.pt is damaged" in m and "after 8 steps" in m]
    other = spec_of(Path(shutil.copytree(storage, tmp_path / "other")), seed=2)
    distill(other, fresh=True)
    assert_same(weights(storage, spec), weights(Path(other.storage), other))
    for name in ("epochs", "paths"):
        assert lines(storage, spec.identity(), name) == lines(Path(other.storage), spec.identity(), name)
    assert not states.exists(), "what a run goes on from goes when it ends"


@pytest.mark.parametrize("way", WAYS)
def test_without_a_whole_state_the_run_begins_anew_and_says_so(
    storage: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    training, states = interrupted(storage, steps=10)
    for name in ("last.pt", "before.pt"):
        damaged(states / name, way)
    epochs: list[int] = []
    assert distill(training.spec, on_epoch=lambda _, r: epochs.append(r["epoch"]))["status"] == "finished"
    assert epochs == [1, 2, 3, 4]
    assert [m for m in caplog.messages if "last.pt is damaged" in m and "starts over" in m]
    records = lines(storage, training.identity)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_state_with_a_hole_is_damaged_wherever_the_hole_is(storage: Path, place: float) -> None:
    training, states = interrupted(storage, steps=10)
    data = bytearray((states / "last.pt").read_bytes())
    start = int(place * len(data))
    data[start : start + 512] = bytes(byte ^ 255 for byte in data[start : start + 512])
    (states / "last.pt").write_bytes(data)
    state = StoreCheckpoints(training.context.store, training.directory).load()
    assert state is not None
    assert state["taken"] == 8


def test_a_damaged_state_never_takes_the_place_of_the_one_before_it(storage: Path) -> None:
    training, states = interrupted(storage, steps=10)
    damaged(states / "last.pt", "cut")
    before = (states / "before.pt").read_bytes()
    again = Training(training.spec, local_context(training.spec))
    stop_after_steps(again, 9)
    assert (states / "before.pt").read_bytes() == before
    state = StoreCheckpoints(again.context.store, again.directory).load()
    assert state is not None
    assert state["taken"] == 9


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_summary_of_a_run_with_a_state_goes_on_from_the_state(storage: Path, way: str) -> None:
    training, states = interrupted(storage, steps=10)
    summary = states.parent / "summary.json"
    summary.write_text("{}" * 40)
    damaged(summary, way)
    epochs: list[int] = []
    found = distill(training.spec, on_epoch=lambda _, record: epochs.append(record["epoch"]))
    assert (found["status"], epochs) == ("finished", [3, 4])


def test_what_fails_after_the_end_takes_nothing_back(storage: Path) -> None:
    spec = spec_of(storage)
    file = storage / "runs" / spec.identity() / "summary.json"
    before = file.read_text()
    training = Training(spec, local_context(spec))
    assert training.fail(RuntimeError("too late"))["status"] == "finished"
    assert training.stop("too late")["status"] == "finished"
    assert file.read_text() == before


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["epochs.jsonl", "paths.jsonl"])
def test_a_run_goes_on_beside_records_that_were_torn(storage: Path, file: str, way: str) -> None:
    training, states = interrupted(storage, steps=10)
    damaged(states.parent / file, way)
    assert distill(training.spec)["status"] == "finished"
    rows = read_records(storage).trials.set_index("identity")
    assert rows.loc[training.identity, "status"] == "finished"
    assert file in rows.loc[training.identity, "incomplete"]


# Stored targets.


def stored_files(storage: Path) -> dict[str, Path]:
    root = storage / "targets"
    parts = [file for file in root.rglob("*") if file.is_file() and "mapped" not in file.parts]
    mapped = [file for file in (root / "mapped").rglob("*") if file.is_file()]
    return {
        "store.json": next(file for file in parts if file.name == "store.json"),
        "group.json": next(file for file in parts if file.name == "group.json"),
        "shard.json": next(file for file in parts if file.name.startswith("v") and file.suffix == ".json"),
        "shard.parquet": next(file for file in parts if file.suffix == ".parquet"),
        "mapped.json": next(file for file in mapped if file.suffix == ".json"),
        "mapped.bin": next(file for file in mapped if file.suffix == ".bin"),
    }


def attempt(spec: RunSpec) -> str | None:
    """Train anew; what the run was refused with, or None."""
    try:
        distill(spec, fresh=True)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "kind", ["store.json", "group.json", "shard.json", "shard.parquet", "mapped.json", "mapped.bin"]
)
def test_damaged_stored_targets_are_made_again_or_named_and_never_read(
    storage: Path, kind: str, way: str
) -> None:
    spec = spec_of(storage, targets="stored")
    before = weights(storage, spec)
    file = stored_files(storage)[kind]
    if not kind.startswith("mapped"):
        shutil.rmtree(storage / "targets" / "mapped")  # else nobody reads the shards again
    damaged(file, way)
    said = attempt(spec)
    if said is not None:
        assert str(file) in said, said
        assert "elete" in said, said
        target = file.parent if kind == "store.json" else file
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        assert attempt(spec) is None, "what the message says helps"
    assert_same(weights(storage, spec), before)


def test_what_is_damaged_is_said_once(storage: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    spec = spec_of(storage)
    damaged(storage / "runs" / spec.identity() / "summary.json", "cut")
    distill(spec)
    assert sum("summary.json is damaged" in message for message in caplog.messages) == 1
