"""Errors that are the user's to mend: one clear message, no traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something the user wrote or set up cannot work; the message says what, where and what would.

    The command line prints it without a traceback and exits with code 2.
    """


class TrainingFailed(RuntimeError):
    """A run cannot go on (a loss became NaN, say); the message is the reason that its record keeps."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, or None when none is near."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> UserError:
    """The error for a name nobody registered: names it, the nearest valid one, and all valid ones."""
    names = sorted(known)
    guess = nearest(name, names)
    hint = f" Did you mean '{guess}'?" if guess else ""
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")
