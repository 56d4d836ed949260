"""Every JSON file that is read back from a storage, with a value of another type at each of its places.

Such a file is whole JSON: a person edited it, or another version wrote it. A reader names it, or takes it for
missing; none ends in a traceback of its own.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_kd.analysis import read_records
from ray_kd.analysis.comparison_table import as_csv
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.report import report_html
from ray_kd.analysis.run_list import list_runs
from ray_kd.analysis.sweep_results import sweep_results
from ray_kd.analysis.verdicts import sweep_verdicts
from ray_kd.config.errors import UserError
from ray_kd.storage import Store
from ray_kd.storage.prune import removable
from ray_kd.trials.ledger import Ledger
from tests.analysis.make_records import STRATEGIES, make_records

WRONG: tuple[Any, ...] = ("text", -1.5, True, None, [], {"a": ["b"]})


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, its whole included; of lists the first entry."""
    yield at
    inside = (
        value.items() if isinstance(value, dict) else enumerate(value[:1] if isinstance(value, list) else ())
    )
    for key, kept in inside:
        yield from places(kept, (*at, key))


def changed(value: Any, at: tuple[Any, ...], wrong: Any) -> Any:
    if not at:
        return wrong
    value = copy.deepcopy(value)
    here = value
    for key in at[:-1]:
        here = here[key]
    here[at[-1]] = wrong
    return value


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = {name: STRATEGIES[name] for name in ("student alone", "NST")}
    folder = tmp_path_factory.mktemp("typed")
    make_records(folder, strategies=cells, seeds=2, epochs=2, control=False, looks=(1, 2), margin=1.0)
    design = folder / "sweeps/digits/design.json"
    data = json.loads(design.read_text())
    data["families"][0]["sizing"] = {"pilot": 1, "most": 8, "power": 0.8, "spread": 1.5, "earlier": False}
    design.write_text(json.dumps(data))
    return folder


def _analysed(root: Path) -> None:
    records = read_records(root, "digits")
    for comparison in sweep_results(records).comparisons.values():
        as_csv(comparison)
        report_html(records, comparison, [], Folder.open(root), "results")
    sweep_verdicts(read_records(root, "digits"))


def _driven(root: Path) -> None:
    ledger = Ledger(Store(root), "digits")
    ledger.load()
    ledger.outcomes([*(run.name for run in (root / "runs").iterdir())])
    ledger.read_plan()
    ledger.read_design()


def _listed(root: Path) -> None:
    list_runs(root)


def _pruned(root: Path) -> None:
    store = Store(root)
    removable(store, store.sizes())
    with contextlib.suppress(UserError):  # it is part of the sweep, or the sweep cannot be read
        removable(store, store.sizes(), ["f" * 16])


def refusal(reader: Callable[[Path], None], root: Path) -> UserError | None:
    try:
        reader(root)
    except UserError as error:
        return error
    return None


READERS: tuple[Callable[[Path], None], ...] = (_analysed, _driven, _listed, _pruned)
FILES = {
    "sweeps/digits/plan.json": "plan",
    "sweeps/digits/design.json": "design.json",
    "sweeps/digits/ledger/0000000000000002.json": "",
    "runs/0000000000000002/summary.json": "",
    "runs/0000000000000002/environment.json": "",
    "runs/0000000000000002/spec.yaml": "",
    "runs/0000000000000002/epochs.jsonl": "",
    "runs/0000000000000002/paths.jsonl": "",
}
"""File -> what a refusal has to name; empty: a damaged one counts as missing, and nothing is refused."""


@pytest.mark.parametrize("file", FILES)
def test_a_value_of_another_type_is_named_or_counts_as_missing(root: Path, file: str) -> None:
    path = root / file
    before = path.read_text()
    first, _, rest = before.partition("\n") if file.endswith("jsonl") else (before, "", "")
    value, named = yaml.safe_load(first), FILES[file]
    try:
        for at in places(value):
            for wrong in WRONG:
                path.write_text(json.dumps(changed(value, at, wrong)) + "\n" + rest)
                said = [str(error) for error in map(refusal, READERS, [root] * len(READERS)) if error]
                assert all(named and named in text for text in said), (at, wrong, said)
    finally:
        path.write_text(before)
