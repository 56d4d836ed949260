"""The columns of the tables, with their Arrow types and what they mean.

The columns listed here are always there, in this order. Metrics that they do not name (a segmentation's
``miou``, say) follow as float64 columns in alphabetical order, as ``last_test_miou`` or ``val_miou``.
Rates are fractions in [0, 1]; what is not known is null. The meaning of each column travels in the
Parquet file as field metadata (key ``meaning``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from ray_kd.config.ending import STATES
from ray_kd.config.names import printable

TEXT, INTEGER, NUMBER, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
Column = tuple[str, pa.DataType, str]

CORE_METRICS = ("loss", "top1", "top5", "agreement", "agreement5")
"""Metrics with a column in every table, whether a run has them or not."""

_WHO: tuple[Column, ...] = (
    ("sweep", TEXT, "sweep that planned the trial; null: a run of its own"),
    ("cell", TEXT, "strategy: all trials of a cell differ in the seed alone"),
    ("seed", INTEGER, "seed of the run; runs of one seed are paired across cells"),
    ("phase", TEXT, "compare: enters statistics; search, control, teacher: do not"),
    ("identity", TEXT, "name of the run's directory below runs/"),
)

_TRIAL: tuple[Column, ...] = (
    ("name", TEXT, "name in the run's spec"),
    (
        "status",
        TEXT,
        "finished, failed, stopped (by a scheduler), blocked (its teacher failed), unfinished (interrupted, "
        "or the storage failed it), running or missing",
    ),
    ("reason", TEXT, "why it failed or was stopped"),
    ("incomplete", TEXT, "what is damaged or missing in the record; null: nothing"),
    ("teachers", TEXT, "identities of the runs that train its teachers, joined by ' '"),
    ("axes", TEXT, "the values of the sweep's axes, a JSON object"),
    ("task", TEXT, "registered name of the task"),
    ("dataset", TEXT, "registered name of the dataset"),
    ("student", TEXT, "registered name of the student's model"),
    ("paths", TEXT, "labels of the distillation paths, joined by ', '; empty: none"),
    ("aggregation", TEXT, "registered name of the aggregator; null where there are no paths"),
    ("granularity", TEXT, "path or layer: what has a weight of its own; null where there are no paths"),
    ("harmful", TEXT, "labels of the paths that are harmful on purpose, joined by ', '"),
    ("student_options", TEXT, "options of the student's model, a JSON object"),
    ("dataset_options", TEXT, "options of the dataset, a JSON object"),
    ("aggregation_options", TEXT, "options of the aggregator, a JSON object"),
    ("planned_epochs", INTEGER, "epochs in the spec"),
    ("epochs", INTEGER, "epochs trained so far"),
    ("steps", INTEGER, "optimizer steps so far"),
    ("seconds", NUMBER, "wall seconds of training"),
    ("started", TEXT, "when training started, ISO 8601"),
    ("parameters", INTEGER, "parameters of the student alone"),
    ("monitor", TEXT, "validation metric that chooses the best weights"),
    ("mode", TEXT, "max or min: which way the monitored metric is better"),
    ("last_epoch", INTEGER, "epoch of the last weights"),
    ("best_epoch", INTEGER, "epoch of the weights that were best on validation"),
    ("device", TEXT, "device it trained on"),
    ("device_name", TEXT, "model of that device; a processor's with the instructions that PyTorch uses"),
    ("precision", TEXT, "arithmetic of the forward passes"),
    ("threads", INTEGER, "CPU threads of one worker"),
    ("host", TEXT, "machine it trained on"),
    ("python", TEXT, "version of Python"),
    ("torch", TEXT, "version of PyTorch"),
    ("ray", TEXT, "version of Ray; null: trained without"),
    ("ray_kd", TEXT, "version of ray-kd"),
    ("commit", TEXT, "commit of the code, if it ran from a checkout"),
)

_EPOCH: tuple[Column, ...] = (
    ("epoch", INTEGER, "epoch, counted from 1"),
    ("step", INTEGER, "optimizer steps so far"),
    ("learning_rate", NUMBER, "learning rate at the end of the epoch"),
    ("seconds", NUMBER, "wall seconds of this epoch, evaluation included"),
    ("train_loss", NUMBER, "mean of the whole training objective"),
    ("train_task_loss", NUMBER, "mean of the task loss alone"),
    *((f"val_{metric}", NUMBER, f"{metric} on validation data") for metric in CORE_METRICS),
)

_PATH: tuple[Column, ...] = (
    ("epoch", INTEGER, "epoch, counted from 1"),
    ("path", TEXT, "label of the path, or label/stage where each stage has a weight of its own"),
    ("loss", NUMBER, "raw loss, mean over the epoch"),
    ("weight", NUMBER, "effective factor on the raw loss, mean over the epoch"),
    ("gradient_norm", NUMBER, "norm of the path's gradient, where the aggregator has it"),
    ("cosine", NUMBER, "cosine to the gradient of the task loss, where the aggregator has it"),
    ("gate", NUMBER, "utility: how far the path is used, 0 off to 1 fully, at the end of the epoch"),
    ("t", NUMBER, "utility: t-statistic of the evidence that the path helps, at the end of the epoch"),
    (
        "share",
        NUMBER,
        "utility: its part of all paths' weight x gradient norm, at the end of the epoch",
    ),
    ("measurements", NUMBER, "utility: measurements so far"),
)


def _metric(which: str, split: str, metric: str) -> Column:
    return (f"{which}_{split}_{metric}", NUMBER, f"{split} {metric} of the {which} weights")


_SUMMARY: tuple[Column, ...] = tuple(
    _metric(which, split, metric)
    for which in ("last", "best")
    for split in ("val", "test")
    for metric in CORE_METRICS
)


def _figure(name: str, what: str, interval: str) -> tuple[Column, ...]:
    return (
        (f"{name}_mean", NUMBER, f"{what}: mean"),
        (f"{name}_low", NUMBER, f"{what}: lower bound of {interval}"),
        (f"{name}_high", NUMBER, f"{what}: upper bound of {interval}"),
    )


_OWN = "the strategy's own 95 % t-interval, which decides nothing"
COMPARISON: tuple[Column, ...] = (
    ("task", TEXT, "registered name of the task"),
    ("strategy", TEXT, "the cell, without its task's label"),
    ("metric", TEXT, "the metric that is compared"),
    ("reference", TEXT, "the cell that it is compared with; null of a reference itself"),
    ("verdict", TEXT, "better, worse, the same, open or no verdict (seeds were lost to failures)"),
    ("look", INTEGER, "seeds of the look that the verdict is from; 0: before the first look"),
    *_figure("difference", "strategy minus reference on the look's seeds", "the interval of the verdict"),
    (
        "level",
        NUMBER,
        "confidence of that interval by itself; all intervals of the family together have 95 %",
    ),
    ("p", NUMBER, "smallest error of the whole family at which the interval excludes 0"),
    ("pairs", INTEGER, "seeds in the difference"),
    ("looks", TEXT, "all looks of the strategy's family, in seeds, joined by ' '"),
    ("margin", NUMBER, "largest difference that counts as the same; null: none was declared"),
    ("lost", INTEGER, "seeds of the look whose trial, or whose reference's trial, has no result"),
    ("hopeless", FLAG, "stopped as open, since the last look would hardly give a verdict"),
    ("skewed", FLAG, "the differences are skewed for sure"),
    ("may_be_best", FLAG, "in the set that holds the best true mean at 95 %; null: the design cannot ask"),
    *(
        (f"beats{end}", NUMBER, f"{what} a seed's metric is better than the reference's; null as above")
        for end, what in (
            ("", "share of the look's seeds on which"),
            ("_low", "lower bound (Clopper and Pearson, 95 %, by itself) of the chance that"),
            ("_high", "upper bound of the chance that"),
        )
    ),
    ("planned", INTEGER, "planned trials"),
    ("n", INTEGER, "trials that count"),
    *((state.replace(" ", "_"), INTEGER, f"planned trials with the status {state}") for state in STATES),
    *_figure("best", "test metric of the weights that were best on validation", _OWN),
    *_figure("last", "test metric of the last weights", _OWN),
    *_figure("agreement", "agreement with the teacher on test data", _OWN),
    ("seconds_mean", NUMBER, "wall seconds of training, mean"),
)
"""The columns of comparison.parquet and, but for ``task``, of table.csv: a row for each strategy."""

TABLES: dict[str, tuple[Column, ...]] = {
    "trials": (*_WHO, *_TRIAL, *_SUMMARY),
    "epochs": (*_WHO, *_EPOCH),
    "paths": (*_WHO, *_PATH),
}
"""The tables of records."""
_COLUMNS = {**TABLES, "comparison": COMPARISON}


_PLAIN: dict[pa.DataType, Any] = {TEXT: str, INTEGER: int, NUMBER: (int, float), FLAG: bool}


def schema(table: str, columns: Iterable[str] = ()) -> pa.Schema:
    """The Arrow schema of ``table``; of ``columns``, those it does not name are added as float64 metrics."""
    fields = [pa.field(name, kind, metadata={"meaning": meaning}) for name, kind, meaning in _COLUMNS[table]]
    known = {field.name for field in fields}
    for name in sorted(set(columns) - known):
        fields.append(pa.field(name, NUMBER, metadata={"meaning": "a metric of the task"}))
    return pa.schema(fields)


def to_arrow(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with the columns and types of ``table``; keys that a row lacks become null, texts printable.

    So do values of another type become null, as a recorded spec or a line of an epoch has them that somebody
    changed.
    """
    wanted = schema(table, {name for row in rows for name in row})
    rows = [
        {name: printable(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]
    try:
        return pa.Table.from_pylist(rows, schema=wanted)
    except (pa.ArrowException, OverflowError):
        kinds = {field.name: field.type for field in wanted}
        kept = [{name: _of_kind(value, kinds[name]) for name, value in row.items()} for row in rows]
        return pa.Table.from_pylist(kept, schema=wanted)


def columns_to_arrow(table: str, columns: dict[str, list[Any]]) -> pa.Table:
    """The same for columns of one length; those that are missing become null."""
    wanted, length = schema(table, columns), len(next(iter(columns.values())))
    found = []
    for field in wanted:
        values = columns.get(field.name) or [None] * length
        if field.type == TEXT:
            texts = {value for value in values if isinstance(value, str)}  # few differ, of millions
            shown = {text: printable(text) for text in texts}
            values = [shown[value] if isinstance(value, str) else value for value in values]
        found.append(_column(values, field.type))
    return pa.Table.from_arrays(found, schema=wanted)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError):
        return pa.array([_of_kind(value, kind) for value in values], kind)


def _of_kind(value: Any, kind: pa.DataType) -> Any:
    """The value if it is of a column's type, else None."""
    plain = _PLAIN[kind]
    whole = isinstance(value, plain) and (plain is bool or not isinstance(value, bool))
    return value if whole and not (plain is int and abs(value) >= 2**63) else None


def joined(table: str, parts: Sequence[pa.Table]) -> pd.DataFrame:
    """Tables from ``to_arrow`` one below the other; metrics that a part lacks are null in its rows."""
    wanted = schema(table, {name for part in parts for name in part.column_names})
    empty = wanted.empty_table()
    whole = pa.concat_tables([empty, *parts], promote_options="default").select(wanted.names)
    return arrow_to_frame(whole)


def arrow_to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a DataFrame; integers stay integers where some are null."""
    frame: pd.DataFrame = table.to_pandas(types_mapper={INTEGER: pd.Int64Dtype()}.get)
    return frame


def frame_to_arrow(name: str, frame: pd.DataFrame) -> pa.Table:
    """A DataFrame as an Arrow table with the fixed schema of table ``name``."""
    wanted = schema(name, [str(column) for column in frame.columns])
    return pa.Table.from_pandas(
        frame.reindex(columns=wanted.names), schema=wanted, preserve_index=False
    ).replace_schema_metadata(None)
