"""A lock that expires: two sweeps that need one teacher train it once, and a dead holder blocks no one."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType

import psutil

from ray_kd.config.errors import UserError
from ray_kd.config.faults import EnvironmentFault
from ray_kd.config.screen import logger
from ray_kd.config.words import clock
from ray_kd.storage.store import Store

TTL = 60.0
"""Seconds without renewal after which a lock counts as abandoned."""
DELETE_EVERY = 1.0
"""Seconds between two tries to delete the file of a lock that was released while the storage was away."""
TELL_AFTER = 10.0
"""Seconds between the first and the second message while waiting; each later pause is twice as long."""
TELL_AT_LEAST = 600.0
"""The longest of these pauses."""

_CONTENT = re.compile(r"(?P<host>[^:\s]+):(?P<pid>\d+):[0-9a-f]{8} \d+\.\d{3}")
"""The content of a complete lock file; a truncated one would name a wrong process."""

Stamp = tuple[bytes, float]
"""Content of a lock file and time of its last write; its holder is alive as long as this changes."""


class Lock:
    """A lock file that its holder renews; other processes wait, or take over an expired lock.

    Args:
        ttl: seconds without renewal after which the lock counts as abandoned.
        on_wait: called with a sentence while another process holds the lock, at growing intervals; default:
            the log, which goes to standard error in a program that has not configured logging.
        what: what the lock protects, in words; default: the file.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        ttl: float = TTL,
        on_wait: Callable[[str], None] | None = None,
        what: str | None = None,
    ) -> None:
        self.store, self.path, self.ttl, self.what = store, path, ttl, what or store.path(path)
        self.on_wait = on_wait or logger(__name__).warning
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._renewal: threading.Thread | None = None
        self._file, self._guard = _Watched(store, path), _Watched(store, f"{path}.takeover")
        self._asked: float | None = None
        self._told, self._pause = 0.0, 0.0

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._renewal is not None

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for the lock; False if ``timeout`` seconds passed without it, and it may be called again."""
        start = time.monotonic()
        self._asked = start if self._asked is None else self._asked
        while not self.store.create_exclusive(self.path, self._content()):
            stamp, age = self._file.look()
            if stamp is not None:
                expired = _holder_is_dead(stamp[0]) or age > self.ttl
                if expired and self._take_over(stamp):
                    continue
                self._tell(stamp[0], max(0.0, self.ttl - age))
            if timeout is not None and time.monotonic() - start > timeout:
                return False
            time.sleep(min(0.2, self.ttl / 10))
        self._asked, self._pause = None, 0.0
        self._stop.clear()
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()
        return True

    def release(self) -> None:
        """Release the lock; the lock file of another holder is not touched.

        If the file cannot be deleted (a disk that became read-only), that is tried again until it can be, or
        is another's.
        """
        self._stop.set()
        if self._renewal is not None:
            self._renewal.join()
            self._renewal = None
            if not self._deleted():
                threading.Thread(target=self._delete_later, daemon=True).start()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _content(self) -> bytes:
        return f"{self.owner} {time.time():.3f}".encode()

    def _mine(self) -> bool:
        try:
            return self.store.read(self.path).startswith(self.owner.encode())
        except FileNotFoundError:
            return False

    def _deleted(self) -> bool:
        """Delete the lock file if it is this object's; False: the storage does not let it."""
        try:
            if self._mine():
                self.store.delete(self.path)
        except (OSError, UserError):
            return False
        return True

    def _delete_later(self) -> None:
        while not self._deleted():
            time.sleep(DELETE_EVERY)

    def _tell(self, content: bytes, left: float) -> None:
        """Say what this process waits for, since when, who holds the lock, and what ends the wait."""
        now = time.monotonic()
        if self._pause and now - self._told < self._pause:
            return
        self._told, self._pause = now, min(2 * self._pause or TELL_AFTER, TELL_AT_LEAST)
        waited = clock(now - (self._asked or now))
        self.on_wait(
            f"waiting for {self.what} for {waited} now: {_holder(content)} holds "
            f"{self.store.path(self.path)}. It ends when that process is done, or in {clock(left)} "
            f"if it does not "
            "renew the file. If you know that it no longer runs, delete the file."
        )

    def _take_over(self, stamp: Stamp) -> bool:
        """Delete an expired lock, one waiter at a time, so that no waiter deletes its successor's lock.

        False: another waiter is deleting it, or died while doing so and left its guard, which expires too.
        """
        guard = self._guard.path
        if not self.store.create_exclusive(guard, self._content()):
            left, age = self._guard.look()
            if left is not None and age > self.ttl and self._guard.stamp() == left:
                self.store.delete(guard)
            return False
        try:
            if self._file.stamp() == stamp:
                self.store.delete(self.path)
        finally:
            self.store.delete(guard)
        return True

    def _renew(self) -> None:
        while not self._stop.wait(self.ttl / 4):
            # A renewal that fails once (a slow disk) is tried again before the lock expires.
            with contextlib.suppress(Exception):
                if self._mine():
                    try:
                        self.store.write(self.path, self._content())
                    except EnvironmentFault:
                        self.store.touch(self.path)


class _Watched:
    """Watches a file that another process renews, and measures for how long it has not changed.

    The time is measured with this process's clock from the last change that it saw, since clocks of nodes
    and of the storage differ. The file's content does not matter: it may be empty, or damaged.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path
        self._seen: Stamp | None = None
        self._since = 0.0

    def stamp(self) -> Stamp | None:
        """The file's content and time of writing; None: there is no file."""
        try:
            return self.store.read(self.path), self.store.modified(self.path)
        except FileNotFoundError:
            return None

    def look(self) -> tuple[Stamp | None, float]:
        """The file's present stamp, and for how many seconds it has not changed."""
        stamp, now = self.stamp(), time.monotonic()
        if stamp is None or stamp != self._seen:
            self._seen, self._since = stamp, now
        return stamp, now - self._since


def is_held(store: Store, path: str, ttl: float = TTL) -> bool:
    """Whether a lock seems to be held, from its file's date alone.

    The date is compared with this machine's clock, so the result is wrong if the two differ by more than
    ``ttl``: good enough for display, but not for taking over a lock.
    """
    try:
        content, written = store.read(path), store.modified(path)
    except FileNotFoundError:
        return False
    return not _holder_is_dead(content) and time.time() - written < 2 * ttl


def _holder(content: bytes) -> str:
    """Who holds a lock, in words."""
    match = _CONTENT.fullmatch(content.decode(errors="replace"))
    if match is None:
        return "an unknown process (the file is empty or damaged)"
    return f"process {match['pid']} on {match['host']}"


def _holder_is_dead(content: bytes) -> bool:
    """Whether the holder ran on this machine and has ended, so that its lock need not expire first."""
    match = _CONTENT.fullmatch(content.decode(errors="replace"))
    if match is None or match["host"] != socket.gethostname():
        return False
    try:
        return not psutil.pid_exists(int(match["pid"]))
    except OverflowError:  # no process has such a number
        return True
