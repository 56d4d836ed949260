"""A lock that expires."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from ray_kd.storage import Lock, Store, lock

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
        assert str(tmp_path / "lock") in said[0]
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


LEFT = {
    "empty": b"",
    "blank": b" \n",
    "half a character": "host-ä".encode()[:-1],
    "garbage": b"\xff\x00\x01 no lock of ours",
    "cut off": f"{socket.gethostname()}:{os.getpid()}".encode()[:-1],
}


@pytest.mark.parametrize("content", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("name", ["lock", "lock.takeover"])
def test_whatever_is_left_in_a_lock_it_expires(tmp_path: Path, name: str, content: bytes) -> None:
    """So does the guard of a take-over; the file's date may be of any clock."""
    store, said = Store(tmp_path), list[str]()
    store.write("lock", b"another-host:1:abc 0.0")
    store.write(name, content)
    for ahead in (0, 1e6):
        os.utime(tmp_path / name, (time.time() + ahead, time.time() + ahead))
    begin = time.monotonic()
    mine = Lock(store, "lock", ttl=0.5, on_wait=said.append)
    assert mine.acquire(timeout=20)
    assert time.monotonic() - begin >= 0.5, "it might have been just written"
    assert said
    mine.release()
    assert os.listdir(tmp_path) == []


def test_a_process_number_that_no_process_has_is_a_dead_holder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("lock", f"{socket.gethostname()}:{1 << 70}:0123abcd 1.000".encode())
    mine = Lock(store, "lock", ttl=3600)
    assert mine.acquire(timeout=20)
    mine.release()


def test_a_lock_that_is_cut_off_is_nobodys_death(tmp_path: Path) -> None:
    """The first digits of a process's number are those of another one."""
    store = Store(tmp_path)
    store.write("lock", f"{socket.gethostname()}:99999999".encode())
    assert not Lock(store, "lock", ttl=3600).acquire(timeout=0.5)


def test_who_waits_says_for_what_since_when_and_how_to_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "TELL_AFTER", 0.1)
    store, said, times = Store(tmp_path), list[str](), list[float]()

    def tell(text: str) -> None:
        said.append(text)
        times.append(time.monotonic())

    store.write("lock", b"host-a:17:0123abcd 1.000")
    waiting = Lock(store, "lock", ttl=3600, on_wait=tell, what="sweep 'mine'")
    for _ in range(4):  # asked piece by piece it goes on waiting
        assert not waiting.acquire(timeout=0.5)
    first, last = said[0], said[-1]
    for part in ("waiting for sweep 'mine'", "process 17 on host-a", str(tmp_path / "lock"), "delete"):
        assert part in first
    assert "1:00:00" in first, "when it expires"
    assert "for 0:00 now" in first
    assert "for 0:00 now" not in last
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) >= 2
    assert gaps[-1] > gaps[0], "at growing intervals"
    store.write("lock", b"")
    assert not Lock(store, "lock", ttl=3600, on_wait=tell).acquire(timeout=0.2)
    assert "an unknown process" in said[-1]


def test_who_is_not_asked_says_it_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    store.write("lock", b"host-a:17:0123abcd 1.000")
    assert not Lock(store, "lock").acquire(timeout=0.3)
    assert "waiting for" in caplog.text


RENEW = """
import resource, sys, time
from ray_kd.storage import Lock, Store
lock = Lock(Store(sys.argv[1]), "lock", ttl=1.0)
lock.acquire()
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print("held", flush=True)
time.sleep(60)
"""


def test_a_holder_on_a_full_disk_keeps_its_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RENEW, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        content = (tmp_path / "lock").read_bytes()
        assert not Lock(Store(tmp_path), "lock", ttl=10).acquire(timeout=3)
        assert (tmp_path / "lock").read_bytes() == content, "it could write nothing"
        assert lock.is_held(Store(tmp_path), "lock", ttl=2)
        written = (tmp_path / "lock").stat().st_mtime
        time.sleep(1)
        assert (tmp_path / "lock").stat().st_mtime > written
    finally:
        process.kill()
        process.wait()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0
    assert not lock.is_held(Store(tmp_path), "lock"), "its holder is dead"


def test_one_look_tells_who_is_at_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not lock.is_held(store, "lock")
    with Lock(store, "lock"):
        assert lock.is_held(store, "lock")
    store.write("lock", b"another-host:1:0123abcd 1.000")
    assert lock.is_held(store, "lock")
    os.utime(tmp_path / "lock", (time.time() - 3600, time.time() - 3600))
    assert not lock.is_held(store, "lock")
