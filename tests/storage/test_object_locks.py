"""Locks on an object store: one holder at a time, however slow, throttled or lost single requests are."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_kd.config.errors import UserError
from ray_kd.config.faults import EnvironmentFault, LockLost
from ray_kd.storage import Lock, Store, is_held
from ray_kd.storage import store as store_module
from tests.helpers import daily
from tests.s3 import Fault, S3Server

TROUBLES = {
    "nothing": (),
    "slow": (
        Fault("delay", ("PUT",), share=0.3, seconds=0.4),
        Fault("delay", share=0.2, seconds=0.3, late=True),
    ),
    "lossy": (Fault("lose", share=0.1), Fault("refuse", share=0.1), Fault("throttle", share=0.1)),
}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOOK_FAR_EVERY", 0.02)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def held(mine: Lock) -> Lock:
    """A lock, once it is held; a server that stays away for longer than a request waits is asked again."""
    while True:
        with contextlib.suppress(OSError, EnvironmentFault):
            mine.acquire()
            return mine


class Room:
    """Counts who is inside at once."""

    def __init__(self) -> None:
        self.inside, self.most, self.visits, self._one = 0, 0, 0, threading.Lock()

    def visit(self, seconds: float) -> None:
        with self._one:
            self.inside, self.visits = self.inside + 1, self.visits + 1
            self.most = max(self.most, self.inside)
        time.sleep(seconds)
        with self._one:
            self.inside -= 1


@pytest.mark.slow
@pytest.mark.parametrize("trouble", daily(["slow", "lossy", "nothing"], first=2))
def test_no_two_hold_a_lock_at_once(s3: S3Server, trouble: str) -> None:
    uri, room = s3.uri(f"many-{trouble}"), Room()

    def work(_: int) -> None:
        for _ in range(2):
            mine = Lock(Store(uri), "lock", ttl=30)
            held(mine)
            room.visit(0.05)
            mine.release()

    with s3.disturbed(*(fault for fault in TROUBLES[trouble])), ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert room.visits == 12
    assert room.most == 1
    assert not is_held(Store(uri), "lock")


@pytest.mark.parametrize("trouble", daily(["slow", "lossy", "nothing"]))
def test_of_many_who_see_a_lock_expire_one_takes_it_over(s3: S3Server, trouble: str) -> None:
    store = Store(s3.uri(f"expired-{trouble}"))
    store.write("lock", b"another-host:1:0123abcd 1.000")
    begin, room = time.monotonic(), Room()

    def take(_: int) -> None:
        mine = held(Lock(Store(store.uri), "lock", ttl=1.5))
        assert time.monotonic() - begin >= 1.5
        mine.require()
        room.visit(0.05)
        mine.release()

    with s3.disturbed(*TROUBLES[trouble]), ThreadPoolExecutor(5) as pool:
        list(pool.map(take, range(5)))
    assert (room.visits, room.most) == (5, 1)


def test_a_slow_put_creates_no_lock_that_another_took_meanwhile(s3: S3Server) -> None:
    """As with write, wait and read back, by which two once held one lock."""
    slow, quick = Store(s3.uri("slow-put")), Store(s3.uri("slow-put"))
    answers: list[bool] = []
    with s3.disturbed(Fault("delay", ("PUT",), times=1, seconds=1.5)):
        thread = threading.Thread(target=lambda: answers.append(slow.create_exclusive("lock", b"slow")))
        thread.start()
        until(lambda: bool(s3.faults and s3.faults[0].hits))
        assert quick.create_exclusive("lock", b"quick")
        thread.join()
    assert answers == [False]
    assert quick.read("lock") == b"quick"


def test_a_late_takeover_is_refused_if_the_holder_has_renewed(s3: S3Server) -> None:
    store = Store(s3.uri("late"))
    mine = Lock(store, "lock", ttl=2)
    mine.acquire()
    seen = store.stamp("lock")
    until(lambda: store.stamp("lock") != seen)
    assert not store.replace("lock", b"another-host:2:0123abcd 2.000", seen)
    mine.require()
    mine.release()
    assert not is_held(store, "lock")


HOLD = """
import sys, time
from ray_kd.storage import Lock, Store
Lock(Store(sys.argv[1]), "lock", ttl=float(sys.argv[2])).acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_holder_of_this_machine_blocks_nobody_and_one_of_another_until_its_time_is_over(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(s3.uri("killed"))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.uri, "3600"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_held(store, "lock")
        assert not Lock(store, "lock", ttl=3600).acquire(timeout=0.5)
    finally:
        holder.kill()
        holder.wait()
    assert not is_held(store, "lock")
    mine = Lock(store, "lock", ttl=3600)
    assert mine.acquire(timeout=20)
    mine.release()
    store.write("lock", b"another-host:1:0123abcd 1.000")
    begin = time.monotonic()
    with Lock(store, "lock", ttl=1):
        assert time.monotonic() - begin >= 1


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_holder_that_was_taken_over_writes_nothing_more(place: str, tmp_path: Path, s3: S3Server) -> None:
    """As one that was stopped for longer than its time, and goes on."""
    store = Store(tmp_path if place == "disk" else s3.uri("taken"))
    mine = Lock(store, "lock", ttl=0.4)
    kept = store.guarded(mine.require)
    mine.acquire()
    kept.write("record", b"1")
    store.write("lock", b"another-host:2:0123abcd 2.000")
    until(lambda: mine._taken_over)
    below = kept.child("below")
    for change in (
        lambda: kept.write("record", b"2"),
        lambda: kept.delete("record"),
        lambda: kept.delete_tree(""),
        lambda: kept.move("record", "moved"),
        lambda: kept.copy("record", "copied"),
        lambda: kept.create_exclusive("new", b""),
        lambda: below.write("new", b""),
        *([lambda: kept.append("lines", {})] if place == "disk" else []),
    ):
        with pytest.raises(LockLost, match="another process took over"):
            change()
    assert kept.read("record") == b"1", "it may still read"
    mine.release()
    with pytest.raises(LockLost):
        kept.write("record", b"2")
    assert store.names() == ["lock", "record"]
    assert store.read("lock") == b"another-host:2:0123abcd 2.000", "its successor's"


def test_a_holder_that_cannot_renew_stops_writing_in_time_and_goes_on_when_it_can(s3: S3Server) -> None:
    store = Store(s3.uri("away"))
    mine = Lock(store, "lock", ttl=1)
    mine.acquire()
    kept, said = store.guarded(mine.require), list[str]()

    def refused() -> bool:
        try:
            kept.write("record", b"")
        except LockLost as error:
            said.append(str(error))
            return True
        return False

    with s3.disturbed(Fault("throttle", key="lock$")):
        began = time.monotonic()
        until(refused)
        assert time.monotonic() - began < 5, "before anybody may have taken it over"
    until(lambda: not refused())
    assert "could not be renewed" in said[0]
    mine.release()


def test_a_released_lock_says_so_and_is_taken_by_whoever_wants_it(s3: S3Server) -> None:
    store, said = Store(s3.uri("free")), list[str]()
    for _ in range(3):
        with Lock(store, "lock", on_wait=said.append):
            assert is_held(store, "lock")
        assert not is_held(store, "lock")
    assert said == []
    with Lock(store, "lock"):
        assert not Lock(store, "lock", on_wait=said.append).acquire(timeout=0.3)
    assert f"process {os.getpid()} on" in said[0]
    assert store.path("lock") in said[0]


def test_a_store_without_conditional_requests_holds_no_locks(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "unconditional", True)
    with pytest.raises(UserError, match="ignores If-None-Match"):
        Lock(Store(s3.uri("unconditional") + "&region=us-west-1"), "lock").acquire()
