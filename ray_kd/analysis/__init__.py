"""The analysis of a sweep: its records become Parquet tables, statistics, plots and a report.

``analyze(storage, sweep)`` does all of it. The pieces, each usable alone:
``records`` reads run directories (live or finished) into three DataFrames, ``tables`` writes and reads
them as Parquet, ``comparison`` compares the cells of a sweep, ``plots`` and ``report`` show the result.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_kd.analysis.comparison import Comparison, compare_cells
    from ray_kd.analysis.convergence import doubling_gain
    from ray_kd.analysis.pipeline import Analysis, analyze
    from ray_kd.analysis.records import Records, read_records
    from ray_kd.analysis.tables import read_tables, write_tables

_HOME = {
    "Analysis": "pipeline",
    "Comparison": "comparison",
    "Records": "records",
    "analyze": "pipeline",
    "compare_cells": "comparison",
    "doubling_gain": "convergence",
    "read_records": "records",
    "read_tables": "tables",
    "write_tables": "tables",
}

__all__ = [
    "Analysis",
    "Comparison",
    "Records",
    "analyze",
    "compare_cells",
    "doubling_gain",
    "read_records",
    "read_tables",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    """Import on first use: pandas, scipy and matplotlib take seconds that ``--help`` does not have."""
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
