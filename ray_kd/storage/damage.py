"""Read damaged files: their intact entries are read, and a warning is given once."""

from __future__ import annotations

import contextlib
import json
from functools import cache
from typing import Any

from ray_kd.config.errors import UserError
from ray_kd.config.screen import logger
from ray_kd.storage.shapes import Summary, misfit

LOG = logger(__name__)


class DamagedFile(UserError):
    """A file that can be read, and does not hold what it should; a fault of the machine is none.

    Args:
        problem: what is wrong in it.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} is damaged ({problem}); delete it, and it is written again.")
        self.problem = problem


@cache
def tell_once(text: str) -> None:
    """Warn of a damaged file, once in each process, though many callers may read it."""
    LOG.warning("%s", text)


def whole_lines(data: bytes) -> tuple[list[dict[str, Any]], bool]:
    """The entries of a file of JSON lines, and whether the file has damaged lines.

    Damaged lines, as a kill, a full disk or a bad disk leaves them (cut off, NUL bytes), are skipped.
    """
    lines = [line for line in data.split(b"\n") if line.strip()]
    if all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        with contextlib.suppress(ValueError, RecursionError):  # at once, which takes a third of the time
            found = json.loads(b"[" + b",".join(lines) + b"]")
            if len(found) == len(lines) and all(isinstance(entry, dict) for entry in found):
                return found, False
    entries = [entry for entry in map(_object, lines) if entry is not None]
    return entries, len(entries) < len(lines)


def whole_summary(value: Any) -> dict[str, Any] | None:
    """``value`` if it is a summary as a run writes it, else None."""
    if misfit(Summary, value) is not None:
        return None
    summary: dict[str, Any] = value
    measured = all(isinstance((summary.get(which) or {}).get("test"), dict) for which in ("last", "best"))
    return summary if measured or summary["status"] != "finished" else None


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
