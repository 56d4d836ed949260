"""Read stored targets from their shards, and keep the shards that were used last in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_kd.config.training import Order
from ray_kd.targets.layout import Group, Shard, TargetStore
from ray_kd.targets.shards import read_shard


class HeldShards:
    """The shards that were used last; a copy in another process begins empty."""

    def __init__(self, most: int) -> None:
        self.most, self.read = most, 0
        self._kept: OrderedDict[tuple[str, str, str], dict[str, Tensor]] = OrderedDict()

    def __reduce__(self) -> Any:
        return HeldShards, (self.most,)

    def rows(self, store: TargetStore, group: Group, shard: Shard, names: Sequence[str]) -> dict[str, Tensor]:
        """The columns of a shard, uint8 (rows, nbytes); calls for one group pass the same ``names``."""
        key = (store.identity, group.identity, shard.name)
        if key not in self._kept:
            while len(self._kept) >= self.most:
                self._kept.popitem(last=False)
            self._kept[key] = read_shard(store, group, shard, names)[1]
            self.read += 1
        self._kept.move_to_end(key)
        return self._kept[key]


class ShardColumn:
    """One column of a group, read like a ``MappedColumn``.

    Args:
        names: the group's columns that are read together.
    """

    def __init__(
        self, store: TargetStore, group: Group, name: str, names: Sequence[str], held: HeldShards
    ) -> None:
        self.store, self.group, self.name, self.names, self.held = store, group, name, names, held
        self.encoding = group.columns[name]

    def gather(self, index: np.ndarray) -> Tensor:
        """The encoded rows at ``index`` (view * samples + place), uint8 (B, nbytes)."""
        view, place = np.divmod(index, self.group.samples)
        part, row = np.divmod(place, self.group.rows)
        found = torch.empty(len(index), self.encoding.nbytes, dtype=torch.uint8)
        for number, of in sorted(set(zip(view.tolist(), part.tolist(), strict=True))):
            mine = np.flatnonzero((view == number) & (part == of))
            start = of * self.group.rows
            shard = Shard(number, of, start, min(start + self.group.rows, self.group.samples))
            rows = self.held.rows(self.store, self.group, shard, self.names)[self.name]
            found[torch.from_numpy(mine)] = rows[torch.from_numpy(row[mine])]
        return found


def spread(group: Group, order: Order | None) -> int:
    """The largest number of shards of a view that training's order reads from at a time."""
    shards = -(-group.samples // group.rows)
    if order is None:
        return shards
    starts = range(0, group.samples, order.block)
    ends = (min(start + order.block, group.samples) - 1 for start in starts)
    most = max(end // group.rows - start // group.rows + 1 for start, end in zip(starts, ends, strict=True))
    return min(shards, most * order.window)
