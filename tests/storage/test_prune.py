"""What of a storage can go: no table changes by it, and nothing that has finished trains again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from ray_kd import distill
from ray_kd.analysis import read_records
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.sweep_results import sweep_results, write_comparison
from ray_kd.analysis.tables import write_tables
from ray_kd.config.errors import UserError
from ray_kd.storage import Lock, Store, is_held
from ray_kd.storage.disk import LEFT, writing_name
from ray_kd.storage.leftovers import clean, clean_probes
from ray_kd.storage.prune import kind_of, removable, remove
from ray_kd.storage.store import PROBE
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.analysis.make_records import make_records
from tests.helpers import tiny
from tests.s3 import S3Server
from tests.training.runs import stop_after_steps


def pruned(store: Store, *runs: str) -> list[str]:
    """The paths that went."""
    return [item.path for item in removable(store, store.sizes(), runs) if remove(store, item)]


def with_leftovers(root: Path, identity: str, state: bytes = b"state") -> set[str]:
    """Put into a storage what kills and runs leave; the paths that can go."""
    store = Store(root)
    store.write(f"runs/{identity}/checkpoints/last.pt", state)
    store.write(f"runs/{identity}/fresh/epochs.jsonl", b"")
    store.write(f"runs/{identity}/fresh/checkpoints/last.pt", state)
    store.write("targets/mapped/abc/def/column-v2.bin", b"0" * 100)
    store.write("targets/abc/store.json", b"{}")
    store.write(f"runs/{identity}/.writing-old", b"half")
    store.write(f"runs/{identity}/.writing-now", b"half")
    hours_ago = time.time() - 7200
    os.utime(root / "runs" / identity / ".writing-old", (hours_ago, hours_ago))
    return {
        f"runs/{identity}/checkpoints",
        f"runs/{identity}/fresh",
        "targets/mapped/abc",
        f"runs/{identity}/.writing-old",
    }


def tables(root: Path, out: Path) -> dict[str, bytes]:
    """The sweep's Parquet and its comparison, as files."""
    records = read_records(root, "digits")
    write_tables(records, out / "tables")
    write_comparison(sweep_results(records), Folder.open(out))
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_tables_are_the_same_after_it(tmp_path: Path) -> None:
    root = make_records(tmp_path / "results")
    identity = next(
        path.name for path in sorted((root / "runs").iterdir()) if (path / "summary.json").exists()
    )
    before = tables(root, tmp_path / "before")
    expected = with_leftovers(root, identity)
    store = Store(root)
    records = {path for path in store.sizes() if kind_of(path) in ("records", "weights", "stored targets")}
    assert set(pruned(store)) == expected
    assert tables(root, tmp_path / "after") == before
    assert "tables/trials.parquet" in before
    assert records <= store.sizes().keys()
    assert pruned(store) == [], "all that can go has gone"


def test_nothing_finished_trains_again_and_what_is_unfinished_goes_on(tmp_path: Path) -> None:
    done = tiny(tmp_path, teacher=None)
    left = tiny(tmp_path, teacher=None, seed=1)
    summary = distill(done)
    stop_after_steps(Training(left, local_context(left)), 6)
    shutil.copytree(
        tmp_path / "runs" / left.identity() / "checkpoints",
        tmp_path / "runs" / done.identity() / "checkpoints",
    )
    assert pruned(Store(tmp_path)) == [f"runs/{done.identity()}/checkpoints"]
    trained: list[str] = []
    again = distill(done, on_epoch=lambda spec, record: trained.append(spec.identity()))
    assert again == summary
    assert trained == []
    distill(left, on_epoch=lambda spec, record: trained.append(f"{record['epoch']}"))
    assert trained == ["2", "3"], "it went on from its state, which stayed"


def test_what_a_lock_protects_stays(tmp_path: Path) -> None:
    root = make_records(tmp_path / "results")
    identity = next(
        path.name for path in sorted((root / "runs").iterdir()) if (path / "summary.json").exists()
    )
    expected = with_leftovers(root, identity)
    store = Store(root)
    with Lock(store, f"runs/{identity}/lock"):
        assert set(pruned(store)) == {f"runs/{identity}/.writing-old"}
        assert (root / "targets" / "mapped" / "abc").exists(), "which copies the run reads, no lock says"
    assert set(pruned(store)) == expected - {f"runs/{identity}/.writing-old"}


def test_what_a_kill_left_goes_with_the_next_run_and_what_is_being_written_stays(tmp_path: Path) -> None:
    spec = tiny(tmp_path, teacher=None)
    folder, state = f"runs/{spec.identity()}", f"runs/{spec.identity()}/checkpoints"
    store, host = Store(tmp_path), socket.gethostname()
    killed = subprocess.Popen(["true"])
    killed.wait()
    left = [f"{place}/{LEFT}{host}-{killed.pid}-abcd1234" for place in (folder, state)]
    kept = [f"{folder}/{writing_name()}abcd1234", f"{folder}/{LEFT}elsewhere-{killed.pid}-abcd1234"]
    for path in (*left, *kept, f"{PROBE}/one/token", f"{PROBE}/two/token"):
        store.write(path, b"half")
    hours_ago = time.time() - 7200
    for path in (kept[0], f"{PROBE}/one/token"):
        os.utime(store.path(path), (hours_ago, hours_ago))
    distill(spec)
    assert [store.exists(path) for path in left] == [False, False]
    assert [store.exists(path) for path in kept] == [True, True], "its writer lives, or may live"
    assert pruned(store) == [f"{PROBE}/one/token"]
    store.write(f"{PROBE}/one/token", b"half")
    os.utime(store.path(f"{PROBE}/one/token"), (hours_ago, hours_ago))
    clean_probes(store)
    assert store.names(PROBE) == ["two"]
    os.utime(store.path(kept[1]), (hours_ago, hours_ago))
    assert clean(store, [folder]) == [kept[1]]


def test_a_run_goes_only_when_it_is_named_and_in_no_sweep(tmp_path: Path) -> None:
    root = make_records(tmp_path / "results")
    planned = next(path.name for path in sorted((root / "runs").iterdir()))
    store = Store(root)
    store.write_json("runs/f00d000000000000/summary.json", {"status": "stopped", "seconds": 65})
    assert pruned(store) == []
    with pytest.raises(UserError, match="part of the sweep 'digits'"):
        removable(store, store.sizes(), [planned])
    with pytest.raises(UserError, match="unknown run 'nothing'"):
        removable(store, store.sizes(), ["nothing"])
    (item,) = removable(store, store.sizes(), ["f00d"])
    assert item.cost == "training it again (1:05)"
    assert pruned(store, "f00d") == ["runs/f00d000000000000"]
    assert not (root / "runs" / "f00d000000000000").exists()
    assert (root / "runs" / planned).exists()


def test_an_object_store_is_pruned_too(s3: S3Server) -> None:
    store = Store(s3.uri("prune"))
    store.write_json(
        "runs/abc/summary.json", {"status": "finished", "last": {"test": {}}, "best": {"test": {}}}
    )
    store.write("runs/abc/checkpoints/train/one/state.pt", b"12345")
    assert store.sizes("runs/abc/checkpoints") == {"runs/abc/checkpoints/train/one/state.pt": 5}
    assert pruned(store) == ["runs/abc/checkpoints"]
    assert list(store.sizes()) == ["runs/abc/lock", "runs/abc/summary.json"]
    assert not is_held(store, "runs/abc/lock"), "what is left of it says that it is free"
