"""A lock that expires: two sweeps that need one teacher train it once, and a dead holder blocks no one.

On a disk the lock is a file that is created exclusively. On an object store every step is a conditional
request: ``If-None-Match: *`` takes the lock, ``If-Match`` with the ETag that was seen renews it, takes it
over or releases it. A released lock stays there as an object that says so, since not every store deletes
conditionally.
"""

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
from ray_kd.config.faults import EnvironmentFault, LockLost
from ray_kd.config.screen import logger
from ray_kd.config.words import clock
from ray_kd.storage.store import Stamp, Store

TTL = 60.0
"""Seconds without renewal after which a lock counts as abandoned."""
GIVE_UP_EVERY = 1.0
"""Seconds between two tries to give up the file of a lock that was released while the storage was away."""
TELL_AFTER = 10.0
"""Seconds between the first and the second message while waiting; each later pause is twice as long."""
TELL_AT_LEAST = 600.0
"""The longest of these pauses."""

_CONTENT = re.compile(r"(?P<host>[^:\s]+):(?P<pid>\d+):[0-9a-f]{8} \d+\.\d{3}")
"""The content of a complete lock file; a truncated one would name a wrong process."""

_FREE = b"free"
"""How the object of a released lock begins."""


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
        self.store = Store(store.uri)  # what guards the caller's store may be this lock
        self.path, self.ttl, self.what = path, ttl, what or store.path(path)
        self.on_wait = on_wait or logger(__name__).warning
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._renewal: threading.Thread | None = None
        self._file, self._guard = _Watched(store, path), _Watched(store, f"{path}.takeover")
        self._asked: float | None = None
        self._told, self._pause = 0.0, 0.0
        self._renewed, self._taken_over = 0.0, False

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._renewal is not None

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for the lock; False if ``timeout`` seconds passed without it, and it may be called again."""
        start = time.monotonic()
        self._asked = start if self._asked is None else self._asked
        while not self._take():
            if timeout is not None and time.monotonic() - start > timeout:
                return False
            time.sleep(min(self.store.look_every, self.ttl / 10))
        self._asked, self._pause = None, 0.0
        self._stop.clear()
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()
        return True

    def require(self) -> None:
        """Refuse to go on as its holder if it no longer is; ``Store.guarded`` calls it before each write.

        Raises:
            LockLost: another process took the lock over, or it could not be renewed for ``ttl`` seconds.
        """
        if self._taken_over:
            raise LockLost(
                f"another process took over {self.store.path(self.path)}, since this one did not renew it "
                f"for {clock(self.ttl)}. This one writes nothing more."
            )
        if self.held and time.monotonic() - self._renewed > self.ttl:
            raise LockLost(
                f"{self.store.path(self.path)} could not be renewed for {clock(self.ttl)}, so another "
                "process may have taken it over."
            )

    def release(self) -> None:
        """Release the lock; the lock file of another holder is not touched.

        If the storage does not let it (a disk that became read-only), that is tried again until it does, or
        the lock is another's.
        """
        self._stop.set()
        if self._renewal is not None:
            self._renewal.join()
            self._renewal = None
            if not self._given_up():
                threading.Thread(target=self._give_up_later, daemon=True).start()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _content(self) -> bytes:
        return f"{self.owner} {time.time():.3f}".encode()

    def _mine(self) -> Stamp | None:
        """The file's stamp if it names this object as the holder.

        A file that is missing (a mount that is away for a moment) names nobody else.
        """
        stamp = self._file.stamp()
        if stamp is None or stamp[0].startswith(self.owner.encode()):
            return stamp
        self._taken_over = True
        return None

    def _take(self) -> bool:
        """Take the lock if it is free or has expired; else say who holds it."""
        stamp, age = self._file.look()
        # An attempt that seemed to fail may have left this object's own.
        mine = stamp is not None and stamp[0].startswith(self.owner.encode())
        begun, taken = time.monotonic(), False
        if stamp is None:
            taken = self.store.create_exclusive(self.path, self._content())
        elif mine or _is_free(stamp[0]) or _holder_is_dead(stamp[0]) or age > self.ttl:
            taken = self._take_over(stamp)
        if taken:
            self._renewed, self._taken_over = begun, False
            return time.monotonic() - begun < self.ttl / 2 or self._renew_once()
        if stamp is not None and not _is_free(stamp[0]):
            self._tell(stamp[0], max(0.0, self.ttl - age))
        return False

    def _given_up(self) -> bool:
        """Delete the lock file, or say in the object that it is free, if it is this object's.

        False: the storage does not let it.
        """
        try:
            stamp = self._mine()
            if stamp is not None and self.store.is_local:
                self.store.delete(self.path)
            elif stamp is not None:
                self.store.replace(self.path, _FREE + b" since " + self._content(), stamp)
        except (OSError, UserError):
            return False
        return True

    def _give_up_later(self) -> None:
        while not self._given_up():
            time.sleep(GIVE_UP_EVERY)

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
            "if it does not renew the file. If you know that it no longer runs, delete the file."
        )

    def _take_over(self, stamp: Stamp) -> bool:
        """Take a free or expired lock that still has this stamp."""
        if not self.store.is_local:
            return self.store.replace(self.path, self._content(), stamp)
        # On a disk one waiter at a time may look and delete, so that none deletes its successor's lock. If
        # one died while doing so, its guard expires, too.
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
        return self.store.create_exclusive(self.path, self._content())

    def _renew(self) -> None:
        while not self._stop.wait(self.ttl / 4) and not self._taken_over:
            # A renewal that fails once (a slow disk) is tried again before the lock expires.
            with contextlib.suppress(Exception):
                self._renew_once()

    def _renew_once(self) -> bool:
        begun, stamp = time.monotonic(), self._mine()
        if stamp is None:
            return False
        try:
            renewed = self.store.replace(self.path, self._content(), stamp)
        except EnvironmentFault:
            if not self.store.is_local:
                raise
            self.store.touch(self.path)
            renewed = True
        if renewed:
            self._renewed = begun
        return renewed


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
        """The file's content and version; None: there is no file."""
        try:
            return self.store.stamp(self.path)
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
    return not _is_free(content) and not _holder_is_dead(content) and time.time() - written < 2 * ttl


def _holder(content: bytes) -> str:
    """Who holds a lock, in words."""
    match = _CONTENT.fullmatch(content.decode(errors="replace"))
    if match is None:
        return "an unknown process (the file is empty or damaged)"
    return f"process {match['pid']} on {match['host']}"


def _is_free(content: bytes) -> bool:
    return content.startswith(_FREE)


def _holder_is_dead(content: bytes) -> bool:
    """Whether the holder ran on this machine and has ended, so that its lock need not expire first."""
    match = _CONTENT.fullmatch(content.decode(errors="replace"))
    if match is None or match["host"] != socket.gethostname():
        return False
    try:
        return not psutil.pid_exists(int(match["pid"]))
    except OverflowError:  # no process has such a number
        return True
