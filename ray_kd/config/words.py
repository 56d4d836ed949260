"""Numbers as text for people."""

from __future__ import annotations

import re

from ray_kd.config.errors import UserError


def clock(seconds: float) -> str:
    """``1:05`` or ``2:01:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds_in(text: str, key: str, zero: bool = False) -> float:
    """Seconds of a span of time such as ``2h``, ``90m``, ``45s`` or ``1h30m``.

    Args:
        zero: whether it may be ``0s``.

    Raises:
        UserError: it is none, or it is 0; ``key`` says where it stands.

    Example:
        >>> seconds_in("1h30m", "--until-time")
        5400.0
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(f"(?:{number}h)?(?:{number}m)?(?:{number}s)?", text.strip().lower(), re.ASCII)
    hours, minutes, seconds = (float(part or 0) for part in (found.groups() if found else ("", "", "")))
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0 and not (zero and found and any(found.groups())):
        raise UserError(f"{key}: expected a span of time such as 2h, 90m, 45s or 1h30m, got '{text}'.")
    return total


def sized(count: float) -> str:
    """A number of bytes as text."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def spell(seconds: float) -> str:
    """Seconds as text."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
