"""A lock that expires."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from ray_kd.storage import Lock, Store

HOLD = (
    "import sys, time; from ray_kd.storage import Lock, Store\n"
    "Lock(Store(sys.argv[1]), 'lock', ttl=float(sys.argv[2])).acquire()\n"
    "print('held', flush=True); time.sleep(60)"
)


def hold(folder: Path, ttl: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(ttl)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    store, inside, most = Store(tmp_path), [0], [0]

    def work() -> None:
        for _ in range(5):
            with Lock(store, "lock"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert not store.exists("lock")


def test_a_holder_is_waited_for_and_named(tmp_path: Path) -> None:
    process = hold(tmp_path, ttl=60)
    said: list[str] = []
    try:
        assert not Lock(Store(tmp_path), "lock", on_wait=said.append).acquire(timeout=0.5)
        assert len(said) == 1
        assert str(process.pid) in said[0]
    finally:
        process.kill()
        process.wait()


def test_a_killed_holder_of_this_machine_blocks_nobody(tmp_path: Path) -> None:
    process = hold(tmp_path, ttl=3600)
    process.kill()
    process.wait()
    lock = Lock(Store(tmp_path), "lock", ttl=3600)
    assert lock.acquire(timeout=5)
    lock.release()


def test_a_lock_nobody_renews_expires(tmp_path: Path) -> None:
    """As left by another machine: whether its holder lives cannot be asked, only its silence heard."""
    store = Store(tmp_path)
    store.write("lock", b"another-host:1:abc 0.0")
    begin = time.monotonic()
    lock = Lock(store, "lock", ttl=0.5)
    assert lock.acquire(timeout=10)
    assert time.monotonic() - begin >= 0.5
    lock.release()


def test_renewal_keeps_a_lock_beyond_its_ttl(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store_lock = Lock(store, "lock", ttl=0.4)
    assert store_lock.acquire()
    assert not Lock(store, "lock", ttl=0.4).acquire(timeout=1.5)
    store_lock.release()
    assert not store.exists("lock")


def test_release_leaves_a_successors_lock(tmp_path: Path) -> None:
    store = Store(tmp_path)
    lock = Lock(store, "lock")
    lock.acquire()
    store.write("lock", b"somebody:1:else 0.0")
    lock.release()
    assert store.read("lock").startswith(b"somebody")
