"""One made-up sweep that the tests of a session share; they read it and change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_kd.analysis import analyze
from ray_kd.analysis.comparison import Comparison, compare_cells
from ray_kd.analysis.pipeline import Analysis
from ray_kd.analysis.records import Records, read_records
from tests.analysis.make_records import TROUBLED, make_records


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine cells x five seeds, of which four trials did not finish; controls, and a search."""
    return make_records(tmp_path_factory.mktemp("results"), statuses=TROUBLED, search=3)


@pytest.fixture(scope="session")
def records(storage: Path) -> Records:
    """The records of that sweep."""
    return read_records(storage, "digits")


@pytest.fixture(scope="session")
def comparison(records: Records) -> Comparison:
    """The comparison of that sweep."""
    return compare_cells(records)


@pytest.fixture(scope="session")
def analysis(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """What ``analyze`` made of that sweep, in a folder of its own."""
    return analyze(storage, out=tmp_path_factory.mktemp("out"))
