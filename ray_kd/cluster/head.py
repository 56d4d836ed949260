"""Watch a cluster's head: a driver that has lost it ends with a sentence and the exit code of what resumes.

Ray itself ends such a process after a while, from native code that no exception passes.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray_kd.config.ending import Ending, exit_code
from ray_kd.config.screen import say

RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
RAYS_PATIENCE = 60.0
"""Seconds that Ray waits for a head that is gone, unless ``RECONNECT`` says otherwise; one that keeps its
state elsewhere (Redis) may come back meanwhile."""
SHARE = 0.7
"""The part of them after which this process ends."""
LOOK_EVERY = 2.0
CURSOR = "\x1b[?25h"
"""Shows a terminal's cursor, which a live panel hides."""


@contextmanager
def watched(address: str, patience: float | None = None) -> Iterator[None]:
    """Within the block this process ends with exit code 3 if the head is gone for too long.

    Args:
        address: ``host:port`` of the head.
        patience: seconds without an answer; default: less than Ray's own.
    """
    limit = patience if patience is not None else SHARE * float(os.environ.get(RECONNECT) or RAYS_PATIENCE)
    over = threading.Event()

    def look() -> None:
        answered = time.monotonic()
        while not over.wait(min(LOOK_EVERY, limit / 4)):
            if _answers(address):
                answered = time.monotonic()
            elif time.monotonic() - answered > limit:
                _end(address, limit)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_EVERY).close()
    except OSError:
        return False
    return True


def _end(address: str, limit: float) -> None:
    """End this process: Ray's calls in other threads hang until its native code ends it."""
    text = (
        f"ray-kd: the head of the Ray cluster at '{address}' has not answered for {limit:.0f} s: it was "
        "stopped, or its machine is gone. Unfinished: start the cluster again, and the same command resumes "
        "from here."
    )
    try:
        say(text, error=True, start=f"{CURSOR}\n" if sys.stderr.isatty() else "\n")
    finally:
        os._exit(exit_code([Ending.UNFINISHED]))
