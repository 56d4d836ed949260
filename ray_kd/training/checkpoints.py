"""The state to resume from, as a file of the run's directory."""

from __future__ import annotations

import io
from typing import Any

import torch

from ray_kd.config.errors import UserError
from ray_kd.storage import Store


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
        try:
            data = self.store.read(self.path)
        except FileNotFoundError:
            return None
        return from_bytes(data, self.store.path(self.path))

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
