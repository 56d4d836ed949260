"""Files that a process was writing when it was killed, told from those that are being written."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterable

import psutil

from ray_kd.config.errors import UserError
from ray_kd.storage.disk import LEFT
from ray_kd.storage.store import PROBE, Store

OLD = 3600.0
"""Seconds after which a file counts as left behind whose writer cannot be looked for."""

_NAME = re.compile(rf"{re.escape(LEFT)}(?P<host>.+)-(?P<pid>\d+)-[^-]+")


def is_left(store: Store, path: str) -> bool:
    """Whether a file that was being written is left over: its writer is dead, or it has not changed for long.

    The writer can be looked for only on its own host.
    """
    found = _NAME.fullmatch(path.rpartition("/")[2])
    if found is not None and found["host"] == socket.gethostname():
        return not psutil.pid_exists(int(found["pid"]))
    try:
        return time.time() - store.modified(path) > OLD
    except FileNotFoundError:
        return False


def clean(store: Store, folders: Iterable[str]) -> list[str]:
    """Delete what killed processes left in these folders, not below them; returns the paths.

    For the holder of the lock of these folders. A storage that does not answer is left as it is.
    """
    gone = []
    with contextlib.suppress(OSError, UserError):
        for folder in folders:
            for name in store.names(folder):
                if name.startswith(LEFT) and is_left(store, f"{folder}/{name}"):
                    store.delete(f"{folder}/{name}")
                    gone.append(f"{folder}/{name}")
    return gone


def clean_probes(store: Store) -> None:
    """Delete what killed processes left of probes of a cluster."""
    with contextlib.suppress(OSError, UserError):
        for name in store.names(PROBE):
            folder = f"{PROBE}/{name}"
            if all(is_left(store, path) for path in store.sizes(folder)):
                store.delete_tree(folder)
        if store.is_local and os.path.isdir(store.path(PROBE)):
            os.rmdir(store.path(PROBE))
