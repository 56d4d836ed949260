"""The state to resume from, as a file of the run's directory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch

from ray_kd.config.errors import UserError
from ray_kd.models.torch_files import read_torch
from ray_kd.storage import Store, tell_once

SPREAD = "train"
"""The folder below ``checkpoints`` where Ray Train keeps the states of a run of several workers."""
STATE = "state.pt"
"""The file of each of these states."""


class StoreCheckpoints:
    """Keeps ``checkpoints/last.pt`` in a run's directory, written atomically, and the state before it.

    A run whose ``last.pt`` is damaged resumes from ``before.pt``.
    """

    def __init__(self, store: Store, directory: str) -> None:
        self.store, self.folder = store, f"{directory}/checkpoints"
        self.path, self.before = f"{self.folder}/last.pt", f"{self.folder}/before.pt"
        self._damaged: list[str] = []

    def save(self, state: dict[str, Any], record: dict[str, Any] | None) -> None:
        data = to_bytes(state)
        if self.store.exists(self.path) and not self._damaged:
            self.store.copy(self.path, self.before)
        self.store.write(self.path, data)
        self._damaged = []

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged state, whether one worker or several saved it.

        A warning names a damaged state, and the one that the run resumes from.
        """
        self._damaged = []
        states = [self.alone(), *self._spread()]
        if self._damaged or states[0] is None:
            states.append(self._read(self.before))
        newest = max((s for s in states if s is not None), key=lambda s: int(s["taken"]), default=None)
        if self._damaged:
            tell_once(f"{'; '.join(self._damaged)}: {_goes_on(newest)}.")
        return newest

    def alone(self) -> dict[str, Any] | None:
        """The last states that a run of one worker saved."""
        return self._read(self.path)

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            return from_bytes(self.store.read(path), self.store.path(path))
        except FileNotFoundError:
            return None
        except UserError as error:
            self._damaged.append(str(error))
            return None

    def _spread(self) -> Iterator[dict[str, Any] | None]:
        """States that a run of several workers saved; one that Ray Train stored only in part is skipped."""
        for name in self.store.names(f"{self.folder}/{SPREAD}"):
            file = f"{self.folder}/{SPREAD}/{name}/{STATE}"
            with contextlib.suppress(FileNotFoundError, UserError):
                yield from_bytes(self.store.read(file), self.store.path(file))

    def discard(self) -> None:
        """Delete the states of a run that ended, also those of Ray Train."""
        self.store.delete_tree(self.folder)


def to_bytes(state: dict[str, Any]) -> bytes:
    """A state as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, place: str) -> dict[str, Any]:
    """A state from bytes; nothing in it is executed."""
    try:
        state: dict[str, Any] = read_torch(data)
        if not isinstance(state["taken"], int) or not isinstance(state["epoch"], int):
            raise TypeError("it has no number of steps")
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the state {place} is damaged ({reason})") from error
    return state


def _goes_on(state: dict[str, Any] | None) -> str:
    if state is None:
        return "no state is left, so this run starts over"
    return f"this run resumes from the state before it, after {state['taken']} steps"
