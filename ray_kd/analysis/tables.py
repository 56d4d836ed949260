"""Records as Parquet files with a fixed schema, and back."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Plan, Records
from ray_kd.analysis.schema import TABLES, arrow_to_frame, frame_to_arrow, schema
from ray_kd.config.errors import UserError
from ray_kd.storage import shapes
from ray_kd.storage.shapes import misfit

_PLAN = b"ray_kd.plan"


def write_tables(records: Records, out: str | Path | Folder) -> dict[str, str]:
    """Write ``trials.parquet``, ``epochs.parquet`` and ``paths.parquet`` into ``out``, each atomically.

    The plan of the sweep travels as schema metadata, so that the files alone are enough for statistics.
    Returns the path of each file.
    """
    folder = Folder.open(out)
    plan = {} if records.plan is None else {_PLAN: json.dumps(dataclasses.asdict(records.plan)).encode()}
    written = {}
    for name in TABLES:
        table = frame_to_arrow(name, getattr(records, name)).replace_schema_metadata(plan)
        written[name] = folder.write(f"{name}.parquet", _parquet(table))
    return written


def write_comparison_table(rows: list[dict[str, object]], out: str | Path | Folder) -> str:
    """Write ``comparison.parquet`` into ``out``, with the columns of ``schema.COMPARISON``; returns its path.

    Args:
        rows: a row for each task and strategy; nan becomes null.
    """
    known = [{key: value for key, value in row.items() if not _is_nan(value)} for row in rows]
    table = pa.Table.from_pylist(known, schema=schema("comparison"))
    return Folder.open(out).write("comparison.parquet", _parquet(table.replace_schema_metadata(None)))


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_tables(out: str | Path | Folder) -> Records:
    """Read what ``write_tables`` wrote."""
    folder = Folder.open(out)
    tables: dict[str, pa.Table] = {}
    for name in TABLES:
        content = folder.read(f"{name}.parquet")
        if content is None:
            raise UserError(f"there is no '{folder.where(name)}.parquet'; `ray-kd analyze` writes it.")
        try:
            tables[name] = pq.read_table(io.BytesIO(content))
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{folder.where(name)}.parquet is no Parquet file ({reason}); `ray-kd analyze` "
                "writes it anew."
            ) from error
    text = (tables["trials"].schema.metadata or {}).get(_PLAN)
    return Records(
        **{name: _frame(name, table) for name, table in tables.items()},
        plan=None if text is None else _plan(text, folder.where("trials.parquet")),
    )


def _plan(text: bytes, where: str) -> Plan:
    try:
        data = {**json.loads(text), "trials": []}
    except (ValueError, TypeError) as error:
        problem: str | None = str(error)
    else:
        declared = data.get("design")
        problem = misfit(shapes.Plan, data) or (misfit(shapes.Design, declared) if declared else None)
    if problem is not None:
        raise UserError(f"{where}: its plan is damaged ({problem}); `ray-kd analyze` writes it anew.")
    return Plan.from_json(data)


def _frame(name: str, table: pa.Table) -> pd.DataFrame:
    """A table as it was read; columns that an older version did not write are null."""
    return arrow_to_frame(frame_to_arrow(name, arrow_to_frame(table)))
