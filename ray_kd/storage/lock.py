"""A lock that expires: two sweeps that need one teacher train it once, and a dead holder blocks nobody."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType

from ray_kd.storage.store import Store


class Lock:
    """A file that says who is at work; its holder renews it, others wait or take an expired one over.

    Args:
        store: where the lock file lies.
        path: the lock file.
        ttl: seconds without renewal after which the lock counts as left behind.
        on_wait: called once with a sentence when somebody else holds the lock.
    """

    def __init__(
        self, store: Store, path: str, ttl: float = 60.0, on_wait: Callable[[str], None] | None = None
    ) -> None:
        self.store, self.path, self.ttl, self.on_wait = store, path, ttl, on_wait
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._renewal: threading.Thread | None = None

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for the lock; False when ``timeout`` seconds passed without it."""
        start, told, seen, since = time.monotonic(), False, b"", time.monotonic()
        while not self.store.create_exclusive(self.path, self._content()):
            content = self._read()
            if content != seen:
                # Expiry is timed by our own clock, from the last change we saw: clocks of nodes differ.
                seen, since = content, time.monotonic()
            if content and (_holder_is_dead(content) or time.monotonic() - since > self.ttl):
                self._take_over(content)
                continue
            if not told and self.on_wait is not None and content:
                self.on_wait(f"waiting for {content.decode().split()[0]}, which holds {self.path}")
                told = True
            if timeout is not None and time.monotonic() - start > timeout:
                return False
            time.sleep(min(0.2, self.ttl / 10))
        self._stop.clear()
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()
        return True

    def release(self) -> None:
        """Give the lock back; somebody else's is left alone."""
        self._stop.set()
        if self._renewal is not None:
            self._renewal.join()
            self._renewal = None
        if self._read().startswith(self.owner.encode()):
            self.store.delete(self.path)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _content(self) -> bytes:
        return f"{self.owner} {time.time():.3f}".encode()

    def _read(self) -> bytes:
        try:
            return self.store.read(self.path)
        except FileNotFoundError:
            return b""

    def _take_over(self, content: bytes) -> None:
        """Delete an expired lock, one waiter at a time, so that nobody deletes a successor's."""
        guard = f"{self.path}.takeover"
        if not self.store.create_exclusive(guard, self._content()):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - self.store.modified(guard) > self.ttl:
                    self.store.delete(guard)
            time.sleep(0.05)
            return
        try:
            if self._read() == content:
                self.store.delete(self.path)
        finally:
            self.store.delete(guard)

    def _renew(self) -> None:
        while not self._stop.wait(self.ttl / 4):
            # A renewal that fails once (a slow disk) is tried again before the lock expires.
            with contextlib.suppress(Exception):
                if self._read().startswith(self.owner.encode()):
                    self.store.write(self.path, self._content())


def _holder_is_dead(content: bytes) -> bool:
    """Whether the holder ran on this machine and is gone: then nobody has to wait for the expiry."""
    host, _, rest = content.decode(errors="replace").partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
