"""Keep Ray's messages off the screen with Ray's own switches, which are set before it is imported.

Errors of workers are still written to the run's ``error.txt`` and to Ray's session logs.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

AUTH_MODE, TOKEN = "RAY_AUTH_MODE", "token"
TOKEN_IS_RAYS = os.environ.get(AUTH_MODE) != TOKEN or "ray" in sys.modules
"""True if the user has not set this variable: if it is set later, Ray did so when it started a cluster."""

SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would start workers that never register
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def quiet() -> None:
    """Set the switches that the user has not set."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\..*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\..*")


@contextmanager
def native_quiet() -> Iterator[None]:
    """Within the block, standard error of native code is dropped and standard error of Python is shown.

    Ray's native code has no switch for its messages there, and writes them to its session logs too.
    """
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        with (
            open(kept, "w", buffering=1, errors="replace", closefd=False) as shown,
            redirect_stderr(shown if _is_standard(sys.stderr) else sys.stderr),
        ):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _is_standard(stream: object) -> bool:
    """Whether a file object is the process's own standard error; a notebook's is not."""
    try:
        return bool(stream.fileno() == 2)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
