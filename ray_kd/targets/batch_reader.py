"""Read training batches with their stored targets, in the run's own process or in another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.training import Order
from ray_kd.data.base import TensorSplit
from ray_kd.data.create import as_trained, create_dataset, create_views
from ray_kd.data.loading import Request, Rows
from ray_kd.targets.compute import Source
from ray_kd.targets.held_shards import HeldShards, ShardColumn, spread
from ray_kd.targets.stored_targets import carried_name


@dataclass(frozen=True)
class Reading:
    """What a process needs to know to read a run's training batches; it is pickled to other processes.

    Attributes:
        columns: the targets' columns, in the order of ``StoredTargets.columns``.
    """

    run: dict[str, Any]
    columns: tuple[ShardColumn, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample's targets."""
        return sum(column.encoding.nbytes for column in self.columns)


class Reader:
    """Reads the rows of requests: the samples as ``Rows`` reads them, and their stored targets."""

    def __init__(self, reading: Reading) -> None:
        spec = RunSpec.parse(reading.run)
        dataset = as_trained(spec, create_dataset(spec.dataset))
        self.split, self.columns = dataset.train, reading.columns
        self.rows = Rows({"train": self.split}, create_views(spec, dataset))

    def __call__(self, request: Request) -> dict[str, Tensor]:
        """The rows of a request of training samples; only the targets if the dataset lies in memory."""
        rows = {} if isinstance(self.split, TensorSplit) else self.rows.read(request)
        index = ((request.shown or 0) * len(self.split) + request.index).numpy()
        return {**rows, **{carried_name(n): column.gather(index) for n, column in enumerate(self.columns)}}


def shard_columns(source: Source, held: HeldShards) -> dict[str, ShardColumn]:
    """The columns of a source, each read from its shards."""
    groups = source.groups()
    found = {}
    for name, group in groups.items():
        if group is not None:
            names = [other for other, same in groups.items() if same == group]
            found[name] = ShardColumn(source.store, group, name, names, held)
    return found


def require_near(spec: RunSpec, columns: Sequence[ShardColumn]) -> None:
    """Refuse a data order in which each batch needs more shards than a reader keeps."""
    groups = list({column.group.identity: column.group for column in columns}.values())
    held = spec.targets.held
    most = sum(spread(group, spec.training.order) for group in groups)
    if most <= held:
        return
    block = max(group.rows for group in groups)
    each = sum(spread(group, Order(block=block, window=1)) for group in groups)
    window, enough = max(1, held // each), max(held, each)
    size = sum(spread(group, spec.training.order) * group.rows * group.row_bytes for group in groups)
    raise UserError(
        f"targets.read: stream: training's order reads from {most} shards at a time, but a reader keeps "
        f"{held} (targets.held), so each batch would read shards again. Expected an order of blocks, such as "
        f"training.order={{block: {block}, window: {window}}} with targets.held={enough}, "
        f"or targets.held={most}, which takes up to {size / 1e9:.3g} GB in each reader."
    )
