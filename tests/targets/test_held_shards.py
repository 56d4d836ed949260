"""Targets read out of their shards: the same rows as from the copy, few shards in memory, none read twice."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.config.training import Order
from ray_kd.data.order import shuffled
from ray_kd.storage import Store
from ray_kd.targets.encoding import Encoding
from ray_kd.targets.held_shards import HeldShards, ShardColumn, spread
from ray_kd.targets.layout import Group, TargetStore
from ray_kd.targets.mapped import map_columns
from ray_kd.targets.shards import write_shard

SAMPLES, ROWS, VIEWS = 100, 8, 2
COLUMNS = {"a": Encoding((3,), "float32"), "b": Encoding((2, 2), "int8")}


@pytest.fixture
def store(tmp_path: Path) -> TargetStore:
    found = TargetStore(Store(tmp_path), {"identity": {"x": 1}, "teacher": "t"})
    found.begin("w")
    group = Group("train", SAMPLES, "ids", COLUMNS, ROWS)
    found.add(group)
    for shard in group.shards(VIEWS):
        draw = torch.Generator().manual_seed(1000 * shard.view + shard.start)
        size = shard.stop - shard.start
        rows = {n: e.encode(torch.randn(size, *e.shape, generator=draw)) for n, e in COLUMNS.items()}
        write_shard(found, group, shard, torch.arange(shard.start, shard.stop), rows)
    return found


def columns(store: TargetStore, held: HeldShards) -> dict[str, ShardColumn]:
    (group,) = store.groups()
    return {name: ShardColumn(store, group, name, list(COLUMNS), held) for name in COLUMNS}


def test_rows_are_those_of_the_copy_in_any_order(store: TargetStore, tmp_path: Path) -> None:
    (group,) = store.groups()
    mapped = map_columns(store, group, list(COLUMNS), VIEWS, Store(tmp_path / "copy"))
    index = np.random.default_rng(0).integers(0, SAMPLES * VIEWS, 500)
    held = HeldShards(3)
    for name, column in columns(store, held).items():
        assert torch.equal(column.gather(index), mapped[name].gather(index))
        assert column.gather(index[:0]).shape == (0, COLUMNS[name].nbytes)
    assert len(held._kept) == 3


def test_both_columns_read_a_shard_once_and_a_copy_elsewhere_begins_empty(store: TargetStore) -> None:
    held = HeldShards(2)
    found = columns(store, held)
    for column in found.values():
        column.gather(np.arange(ROWS))
    assert held.read == 1
    other = pickle.loads(pickle.dumps(found))  # noqa: S301
    assert other["a"].held is other["b"].held
    assert (other["a"].held.read, other["a"].held.most) == (0, 2)
    assert torch.equal(other["a"].gather(np.arange(20)), found["a"].gather(np.arange(20)))


def test_a_damaged_and_a_lost_shard_are_named(store: TargetStore) -> None:
    shard = sorted(Path(store.files.path()).glob("*/v001-p003.parquet"))[0]
    whole = shard.read_bytes()
    reader = columns(store, HeldShards(1))["a"]
    for harm in (whole[:-5], whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]):
        shard.write_bytes(harm)
        reader.gather(np.arange(SAMPLES))  # the other view
        with pytest.raises(UserError, match=rf"{shard.name} is damaged.*precompute"):
            reader.gather(np.arange(SAMPLES, 2 * SAMPLES))
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} is missing.*precompute"):
        reader.gather(np.array([SAMPLES + 3 * ROWS]))


@pytest.mark.parametrize(("block", "window"), [(8, 3), (5, 2), (16, 1), (3, 40)])
def test_an_order_of_blocks_reads_each_shard_about_once(store: TargetStore, block: int, window: int) -> None:
    order = Order(block=block, window=window)
    (group,) = store.groups()
    index = shuffled(SAMPLES, seed=0, epoch=1, order=order)
    assert torch.equal(index.sort().values, torch.arange(SAMPLES))
    whole = shuffled(block * window * 3, seed=0, epoch=1, order=order)
    assert [len((part // block).unique()) for part in whole.split(block * window)] == [window] * 3
    held = HeldShards(spread(group, order))
    reader = columns(store, held)["a"]
    for batch in index.split(4):
        reader.gather(batch.numpy())
    met = sum(spread(group, Order(block=block, window=1)) for _ in range(0, SAMPLES, block))
    windows = -(-SAMPLES // (block * window))
    assert held.read <= met + windows, "none twice within a window, but for the batch that lies in two"


def test_the_order_is_drawn_anew_each_epoch_and_by_itself_is_what_it_was() -> None:
    order = Order(block=8, window=2)
    one, two = (shuffled(SAMPLES, 0, epoch, order) for epoch in (0, 1))
    assert not torch.equal(one, two)
    assert torch.equal(one, shuffled(SAMPLES, 0, 0, order))
    assert not torch.equal(one, shuffled(SAMPLES, 1, 0, order))
    everything = shuffled(SAMPLES, 0, 0, Order(block=1, window=SAMPLES))
    assert torch.equal(everything.sort().values, torch.arange(SAMPLES))
    group = Group("train", SAMPLES, "ids", COLUMNS, ROWS)
    assert spread(group, None) == 13
    assert [spread(group, Order(block=b, window=w)) for b, w in ((8, 3), (5, 2), (40, 1), (8, 99))] == [
        3,
        4,
        5,
        13,
    ]
