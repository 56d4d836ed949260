"""Errors that the user can fix: one clear message, no traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ray_kd.config.names import printable


class UserError(ValueError):
    """The user's input or setup cannot work; the message says what is wrong, where, and what would work.

    The command line prints it without a traceback and exits with code 2. Nothing in the message commands a
    terminal, whatever it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class TrainingFailed(RuntimeError):
    """A run cannot continue, since a loss became NaN, for example; its summary keeps the message."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class StorageError(OSError):
    """An object store refuses a request: no permission, no such bucket. The exit code is 2."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to ``name``, or None if none is similar."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> UserError:
    """The error for an unregistered name; its message has the most similar name, and all valid names."""
    names = sorted(known)
    guess = nearest(name, names)
    hint = f" Did you mean '{guess}'?" if guess else ""
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")
