"""The state to resume from, as a file of the run's directory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch

from ray_kd.config.errors import UserError
from ray_kd.storage import Store

SPREAD = "train"
"""The folder below ``checkpoints`` where Ray Train keeps the states of a run of several workers."""
STATE = "state.pt"
"""The file of each of those."""


class StoreCheckpoints:
    """``checkpoints/last.pt`` below a run's directory, written whole or not at all.

    Args:
        store: the storage root.
        directory: the run's directory.
    """

    def __init__(self, store: Store, directory: str) -> None:
        self.store, self.folder = store, f"{directory}/checkpoints"
        self.path = f"{self.folder}/last.pt"

    def save(self, state: dict[str, Any], record: dict[str, Any] | None) -> None:
        self.store.write(self.path, to_bytes(state))

    def load(self) -> dict[str, Any] | None:
        """The newest state, several workers' included: a run may go on with one."""
        states = [state for state in (self.alone(), *self._spread()) if state is not None]
        return max(states, key=lambda state: int(state["taken"]), default=None)

    def alone(self) -> dict[str, Any] | None:
        """The state that one worker left."""
        try:
            data = self.store.read(self.path)
        except FileNotFoundError:
            return None
        return from_bytes(data, self.store.path(self.path))

    def _spread(self) -> Iterator[dict[str, Any]]:
        """States that several workers left; one that was cut off while Ray Train stored it never counted."""
        for name in self.store.names(f"{self.folder}/{SPREAD}"):
            file = f"{self.folder}/{SPREAD}/{name}/{STATE}"
            with contextlib.suppress(FileNotFoundError, UserError):
                yield from_bytes(self.store.read(file), self.store.path(file))

    def discard(self) -> None:
        """Delete the state of a run that ended, Ray Train's included."""
        self.store.delete_tree(self.folder)


def to_bytes(state: dict[str, Any]) -> bytes:
    """A state as bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, place: str) -> dict[str, Any]:
    """A state from bytes; nothing in it is executed.

    Raises:
        UserError: damaged.
    """
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        state["taken"], state["epoch"]
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the checkpoint {place} is damaged ({reason}). Delete it, or pass --fresh, to start this run "
            "over; other runs are not affected."
        ) from error
    return state
