"""Parquet: a schema that does not move, and a way back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kd.analysis.comparison import compare_cells
from ray_kd.analysis.records import Records, read_records
from ray_kd.analysis.schema import TABLES, schema
from ray_kd.analysis.tables import read_tables, write_tables
from ray_kd.config.errors import UserError
from tests.analysis.make_records import Strategy, make_records


def test_tables_round_trip_with_their_plan(records: Records, tmp_path: Path) -> None:
    write_tables(records, tmp_path)
    back = read_tables(tmp_path)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(back, name), getattr(records, name))
    assert back.plan == records.plan
    assert [cell.best for cell in compare_cells(back).cells] == [
        cell.best for cell in compare_cells(records).cells
    ]


def test_the_schema_is_the_same_whatever_the_records(records: Records, tmp_path: Path) -> None:
    """A sweep of one running trial without paths gives the columns and types of a full one."""
    bare = make_records(
        tmp_path / "bare",
        strategies={"student alone": Strategy()},
        seeds=1,
        statuses={("student alone", 0): "running"},
        control=False,
    )
    write_tables(records, tmp_path / "full")
    write_tables(read_records(bare, "digits"), tmp_path / "empty")
    for name in TABLES:
        schemas = [pq.read_schema(tmp_path / kind / f"{name}.parquet") for kind in ("full", "empty")]
        assert schemas[0].equals(schemas[1])
        assert schemas[0].equals(schema(name))
        assert [field.name for field in schemas[0]] == [column for column, _, _ in TABLES[name]]
        assert all(field.metadata[b"meaning"] for field in schemas[0])


def test_a_new_metric_gets_a_float_column_after_the_fixed_ones(records: Records, tmp_path: Path) -> None:
    trials = records.trials.assign(best_test_miou=0.5, last_test_miou=1)
    written = write_tables(dataclasses.replace(records, trials=trials), tmp_path)
    found = pq.read_schema(written["trials"])
    assert found.names[-2:] == ["best_test_miou", "last_test_miou"]
    assert found.types[-2:] == [pa.float64(), pa.float64()]
    assert found.names[:-2] == schema("trials").names


def test_writing_again_replaces_whole_files_and_leaves_nothing_else(records: Records, tmp_path: Path) -> None:
    write_tables(records, tmp_path)
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / "trials.parquet").write_bytes(b"half a file")
    write_tables(records, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == first
    assert set(first) == {"trials.parquet", "epochs.parquet", "paths.parquet"}


def test_mistakes_are_named(records: Records, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        read_tables(tmp_path)
    write_tables(records, tmp_path)
    (tmp_path / "epochs.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(UserError, match="is no Parquet file"):
        read_tables(tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_tables(records, tmp_path / "file" / "below")
