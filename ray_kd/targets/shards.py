"""One shard of stored targets as a Parquet file of fixed-size binary columns."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.storage import DamagedFile, shapes
from ray_kd.targets.layout import Group, Shard, TargetStore


def schema(group: Group) -> pa.Schema:
    """sample (int64), view (int32), and a binary column of fixed size for each target."""
    columns = [pa.field(name, pa.binary(encoding.nbytes)) for name, encoding in group.columns.items()]
    return pa.schema([pa.field("sample", pa.int64()), pa.field("view", pa.int32()), *columns])


def write_shard(
    store: TargetStore, group: Group, shard: Shard, samples: Tensor, rows: Mapping[str, Tensor]
) -> None:
    """Write a whole shard, then its ``.json``, which says that it is complete.

    Args:
        samples: ids (B,).
        rows: encoded targets by column, uint8 (B, nbytes).
    """
    arrays = [
        pa.array(samples.cpu().numpy(), pa.int64()),
        pa.array(np.full(len(samples), shard.view, np.int32), pa.int32()),
    ]
    for name, encoding in group.columns.items():
        values = rows[name].contiguous().numpy()
        arrays.append(
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(encoding.nbytes), len(samples), [None, pa.py_buffer(values)]
            )
        )
    stream = io.BytesIO()
    table = pa.Table.from_arrays(arrays, schema=schema(group))
    # Numbers do not compress, and dictionaries make reading ten times slower.
    pq.write_table(table, stream, use_dictionary=False, compression="none", write_statistics=False)
    data = stream.getvalue()
    place = f"{group.identity}/{shard.name}"
    store.files.write(f"{place}.parquet", data)
    noted = {"rows": len(samples), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    store.files.write_json(f"{place}.json", noted)


def read_shard(
    store: TargetStore, group: Group, shard: Shard, names: Collection[str] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sample ids (B,) and encoded targets, uint8 (B, nbytes), of a shard; its checksum is verified.

    Args:
        names: of the columns to read; None: all.

    Raises:
        UserError: the shard is missing or damaged; the message says what to do.
    """
    place = f"{group.identity}/{shard.name}"
    path = store.files.path(f"{place}.parquet")
    remedy = "run 'ray-kd precompute' with the same file: it computes what is missing or damaged"
    try:
        noted = store.files.read_json(f"{place}.json", shapes.StoredShard)
        size, checksum = noted["bytes"], noted["sha256"]
        data = store.files.read(f"{place}.parquet")
    except FileNotFoundError:
        raise UserError(f"stored targets: {path} is missing; {remedy}.") from None
    except DamagedFile:
        beside = store.files.path(f"{place}.json")
        raise UserError(f"stored targets: {beside} is damaged. Delete it, then {remedy}.") from None
    if len(data) != size or hashlib.sha256(data).hexdigest() != checksum:
        raise UserError(
            f"stored targets: {path} is damaged: {len(data)} bytes whose checksum is wrong "
            f"({size} bytes were written). Delete it, then {remedy}."
        )
    wanted = {name: group.columns[name] for name in (group.columns if names is None else names)}
    table = pq.read_table(io.BytesIO(data), columns=["sample", *wanted]).combine_chunks()
    samples = torch.from_numpy(table["sample"].to_numpy().copy())
    rows = {}
    for name, encoding in wanted.items():
        column = table[name].chunk(0)
        flat = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * encoding.nbytes :]
        rows[name] = torch.from_numpy(flat[: len(table) * encoding.nbytes].copy()).view(-1, encoding.nbytes)
    return samples, rows
