"""A memory-mapped copy of stored targets, made once on a node and shared by all its trials.

Each column is one file of fixed-size rows, ordered by view and then by sample, so that a batch is read by
index. The operating system holds the pages, so a trial's own memory does not grow with the store. Each
block of the file has a checksum, which is verified when a process first reads from the block.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.storage import DamagedFile, Lock, Store, shapes
from ray_kd.storage.disk import writing_name
from ray_kd.targets.encoding import Encoding
from ray_kd.targets.layout import Group, TargetStore, digest
from ray_kd.targets.shards import read_shard

BLOCK_BYTES = 1 << 20


class MappedColumn:
    """One column, open for reading.

    Args:
        about: the content of its ``.json``: rows, nbytes, block_rows, blocks (a CRC-32 for each).
    """

    def __init__(self, path: str, about: dict[str, Any], encoding: Encoding) -> None:
        self.path, self.encoding = path, encoding
        self.block_rows: int = about["block_rows"]
        self.sums: list[int] = about["blocks"]
        self.values = np.memmap(path, np.uint8, "r", shape=(about["rows"], about["nbytes"]))
        self._unseen = np.ones(len(self.sums), bool)
        self._all_seen = not len(self.sums)

    def gather(self, index: np.ndarray) -> Tensor:
        """The encoded rows at ``index``, uint8 (B, nbytes).

        Raises:
            UserError: a block's checksum is wrong.
        """
        if not self._all_seen:
            self._check(index)
        return torch.from_numpy(self.values[index])

    def _check(self, index: np.ndarray) -> None:
        blocks = np.unique(index // self.block_rows)
        for block in blocks[self._unseen[blocks]]:
            rows = self.values[block * self.block_rows : (block + 1) * self.block_rows]
            if zlib.crc32(rows.data) != self.sums[block]:
                raise UserError(
                    f"stored targets: {self.path} is damaged (its checksum is wrong). "
                    "Delete it; the next run copies it from the shards again."
                )
            self._unseen[block] = False
        self._all_seen = not self._unseen.any()


def map_columns(
    store: TargetStore,
    group: Group,
    columns: list[str],
    views: int,
    cache: Store,
    on_wait: Callable[[str], None] | None = None,
) -> dict[str, MappedColumn]:
    """Columns of a group for at least ``views`` views; they are first copied to this node if needed.

    Args:
        on_wait: called with a sentence while another process makes the copy; default: the log.
    """
    found = _found(store, group, columns, views, cache)
    if len(found) < len(columns):
        with Lock(cache, f"{store.identity}/lock", on_wait=on_wait, what="a copy of stored targets"):
            found = _found(store, group, columns, views, cache)
            lost = [column for column in columns if column not in found]
            if lost:
                every = max(views, store.complete_views(group))  # a copy also serves trials with fewer views
                places = {column: _place(store, group, column, every) for column in lost}
                _copy(store, group, places, every, cache)
                found |= places
    return {
        column: MappedColumn(
            cache.path(f"{place}.bin"), cache.read_json(f"{place}.json"), group.columns[column]
        )
        for column, place in found.items()
    }


def is_mapped(store: TargetStore, group: Group, columns: list[str], views: int, cache: Store) -> bool:
    """Whether this node has a copy of the columns for at least so many views."""
    return len(_found(store, group, columns, views, cache)) == len(columns)


def _place(store: TargetStore, group: Group, column: str, views: int) -> str:
    return f"{store.identity}/{group.identity}/{digest(column)}-v{views}"


def _found(store: TargetStore, group: Group, columns: list[str], views: int, cache: Store) -> dict[str, str]:
    """The copies that there are of at least so many views."""
    names = cache.names(f"{store.identity}/{group.identity}")
    found = {}
    for column in columns:
        begin = f"{digest(column)}-v"
        ends = (name.removeprefix(begin) for name in names if name.startswith(begin))
        counts = {int(end[:-5]) for end in ends if end.endswith(".json") and end[:-5].isdigit()}
        for count in sorted(counts):
            place = _place(store, group, column, count)
            if count >= views and _is_there(cache, place, group, count):
                found[column] = place
                break
    return found


def _is_there(cache: Store, place: str, group: Group, views: int) -> bool:
    try:
        about = cache.read_json(f"{place}.json", shapes.MappedColumn)
        size = cache.size(f"{place}.bin")
    except (FileNotFoundError, DamagedFile):
        return False  # damaged: it is copied again
    rows = about["rows"]
    return bool(rows == group.samples * views and rows * about["nbytes"] == size)


def _copy(store: TargetStore, group: Group, places: dict[str, str], views: int, cache: Store) -> None:
    """Write all columns while reading each shard once; rename the files when they are complete."""
    files: dict[str, tuple[Any, str]] = {}
    folder = cache.path(f"{store.identity}/{group.identity}")
    try:
        os.makedirs(folder, exist_ok=True)
        for column in places:
            descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=writing_name())
            files[column] = (os.fdopen(descriptor, "wb"), temporary)
        for shard in group.shards(views):
            _, rows = read_shard(store, group, shard)
            for column, (file, _) in files.items():
                file.write(rows[column].numpy())
        for column, (file, temporary) in files.items():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(temporary, cache.path(f"{places[column]}.bin"))
            cache.write_json(f"{places[column]}.json", _describe(cache, places[column], group, column, views))
    except OSError as error:
        raise cache.unwritable(f"{store.identity}/{group.identity}", error) from error
    finally:
        for file, temporary in files.values():
            file.close()
            Path(temporary).unlink(missing_ok=True)


def _describe(cache: Store, place: str, group: Group, column: str, views: int) -> dict[str, Any]:
    nbytes, rows = group.columns[column].nbytes, group.samples * views
    block_rows = max(1, BLOCK_BYTES // nbytes)
    values = np.memmap(cache.path(f"{place}.bin"), np.uint8, "r", shape=(rows, nbytes))
    sums = [zlib.crc32(values[start : start + block_rows].data) for start in range(0, rows, block_rows)]
    return {"column": column, "rows": rows, "nbytes": nbytes, "block_rows": block_rows, "blocks": sums}
