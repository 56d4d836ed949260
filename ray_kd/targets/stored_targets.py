"""Targets that were computed before; they equal the live teacher's up to the stored precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.data.loading import CARRIED
from ray_kd.targets.encoding import Encoding
from ray_kd.teacher.live import Targets


class Readable(Protocol):
    """A stored column: a ``MappedColumn`` or a ``ShardColumn``."""

    encoding: Encoding

    def gather(self, index: np.ndarray) -> Tensor:
        """The encoded rows at ``index`` (view * samples + place), uint8 (B, nbytes)."""
        ...


def carried_name(number: int) -> str:
    """The key in a batch under which the rows of column ``number`` came with it."""
    return f"{CARRIED}{number}"


class StoredTargets:
    """The targets of every path, read by (sample, view).

    Args:
        ids: (N,) of the split's samples, in its order.
        views: how many views are stored.
        entries: for each path's label, the column of each entry of its target.
    """

    def __init__(
        self,
        ids: Tensor,
        views: int,
        entries: Mapping[str, Mapping[str, Readable]],
        device: torch.device,
    ) -> None:
        ids = ids.cpu()
        order = ids.argsort()
        self._sorted, self._order = ids[order].numpy(), order.numpy()
        self._in_place = bool((ids == torch.arange(len(ids))).all())
        self.samples, self.views, self.entries, self.device = len(ids), views, entries, device
        # Paths with the same target share a column, which is read and decoded once for each batch.
        self.columns: Sequence[Readable] = list(
            dict.fromkeys(column for entry in entries.values() for column in entry.values())
        )

    def targets(self, batch: Mapping[str, Tensor]) -> Targets:
        """The target of each path, by its label, for the batch's samples under its views."""
        if self.columns and carried_name(0) in batch:
            encoded = [batch[carried_name(number)] for number in range(len(self.columns))]
        else:
            index = self._rows(batch["sample"].cpu().numpy(), batch["view"].cpu().numpy())
            encoded = [column.gather(index) for column in self.columns]
        read = {
            column: column.encoding.decode(rows.to(self.device, non_blocking=True))
            for column, rows in zip(self.columns, encoded, strict=True)
        }
        return {
            label: {entry: read[column] for entry, column in entries.items()}
            for label, entries in self.entries.items()
        }

    def _rows(self, sample: np.ndarray, view: np.ndarray) -> np.ndarray:
        if view.size and int(view.max()) >= self.views:
            raise UserError(
                f"stored targets: view {int(view.max())} is not stored; {self.views} are (views.count)."
            )
        if self._in_place:
            place = sample
            known = bool(((sample >= 0) & (sample < self.samples)).all())
        else:
            found = self._sorted.searchsorted(sample).clip(max=self.samples - 1)
            place, known = self._order[found], bool((self._sorted[found] == sample).all())
        if not known:
            raise UserError("stored targets: the batch has a sample that is not stored.")
        return view * self.samples + place
