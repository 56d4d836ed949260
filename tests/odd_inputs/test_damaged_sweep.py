"""Files of a sweep, damaged in every way: its curves, its plan, its ledger, its tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_kd.analysis import Analysis, analyze, read_records, read_tables
from ray_kd.config.errors import UserError
from ray_kd.storage import Store
from ray_kd.trials.ledger import Ledger
from tests.analysis.make_records import STRATEGIES, make_records
from tests.helpers import daily
from tests.odd_inputs.damage import WAYS, Damage, damaged

TORN: dict[str, Damage] = {
    **WAYS,
    "a last line cut": lambda data: data[:-20],
    "a line missing": lambda data: b"".join(line for n, line in enumerate(data.splitlines(True)) if n != 9),
    "NULs in a line": lambda data: data.replace(data.splitlines()[5][:30], bytes(30)),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a sweep of three cells."""
    cells = {name: STRATEGIES[name] for name in ("student alone", "NST", "adaptive by path")}
    return make_records(tmp_path_factory.mktemp("whole"), strategies=cells, seeds=2, epochs=12)


@pytest.fixture(scope="module")
def whole(root: Path) -> Analysis:
    """What they say while nothing is damaged."""
    return analyze(root, "digits")


@pytest.fixture
def made(root: Path, whole: Analysis, tmp_path: Path) -> Path:
    """A copy to damage, with the tables of the analysis."""
    return Path(shutil.copytree(root, tmp_path / "made"))


def identity_of(root: Path, cell: str, seed: int = 0) -> str:
    trials = read_records(root, "digits").trials
    return str(trials[(trials["cell"] == cell) & (trials["seed"] == seed)].iloc[0]["identity"])


@pytest.mark.parametrize("way", daily(reversed(TORN), 2))
@pytest.mark.parametrize("file", ["epochs.jsonl", "paths.jsonl"])
def test_torn_lines_leave_the_result_and_the_curves_say_who_is_left_out(
    whole: Analysis, made: Path, file: str, way: str
) -> None:
    place = made / "runs" / identity_of(made, "adaptive by path") / file
    data = place.read_bytes()
    place.write_bytes(TORN[way](data))
    after = analyze(made, "digits")
    assert [cell.best for cell in after.comparison.cells] == [cell.best for cell in whole.comparison.cells]
    assert {cell.statuses["finished"] for cell in after.comparison.cells} == {2}
    table = Path(after.files["table.md"]).read_text()
    assert "Incomplete records: “adaptive by path”, seed 0" in table
    assert file in table
    assert "record is incomplete: 1 trial" in Path(after.files["report.html"]).read_text()
    shown = after.records.whole_paths
    assert set(shown[shown["cell"] == "adaptive by path"]["seed"]) == {1}
    assert Path(after.files["plots/weights.svg"]).exists()


def test_lines_that_stand_twice_are_no_damage(made: Path) -> None:
    folder = made / "runs" / identity_of(made, "NST")
    before = read_records(made, "digits")
    for file in ("epochs.jsonl", "paths.jsonl"):
        text = (folder / file).read_text()
        (folder / file).write_text(text + "".join(text.splitlines(True)[-3:]))
    after = read_records(made, "digits")
    assert after.trials["incomplete"].isna().all()
    assert after.epochs.equals(before.epochs)
    assert after.paths.equals(before.paths)


def test_a_record_of_98_of_120_epochs_is_not_whole(tmp_path: Path) -> None:
    cells = {name: STRATEGIES[name] for name in ("student alone", "NST")}
    root = make_records(tmp_path, strategies=cells, seeds=2, epochs=120, control=False)
    file = root / "runs" / identity_of(root, "NST") / "epochs.jsonl"
    file.write_text("".join(file.read_text().splitlines(True)[:98]))
    row = read_records(root, "digits").trials.set_index("identity").loc[file.parent.name]
    assert (row["status"], row["incomplete"]) == ("finished", "epochs.jsonl has 98 of 120 epochs")


@pytest.mark.parametrize("way", daily(WAYS))
@pytest.mark.parametrize("file", ["spec.yaml", "environment.json", "summary.json"])
def test_a_sweep_is_analysed_whatever_is_damaged_in_one_run(made: Path, file: str, way: str) -> None:
    damaged(made / "runs" / identity_of(made, "NST") / file, way)
    found = analyze(made, "digits")
    finished = {cell.name: cell.n for cell in found.comparison.cells}
    assert finished == {"student alone": 2, "NST": 1 if file == "summary.json" else 2, "adaptive by path": 2}


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_ledger_entry_says_nothing_against_the_run(made: Path, way: str) -> None:
    identity = identity_of(made, "NST")
    damaged(made / "sweeps" / "digits" / "ledger" / f"{identity}.json", way)
    ledger = Ledger(Store(made), "digits")
    ledger.load()
    assert ledger.outcomes([identity])[identity].status == "finished"
    assert set(read_records(made, "digits").trials["status"]) == {"finished"}


@pytest.mark.parametrize("way", daily(WAYS))
def test_a_damaged_plan_is_named_and_a_damaged_sweep_file_only_not_quoted(made: Path, way: str) -> None:
    damaged(made / "sweeps" / "digits" / "sweep.yaml", way)
    assert analyze(made, "digits").comparison.started
    damaged(made / "sweeps" / "digits" / "plan.json", way)
    with pytest.raises(UserError, match=r"plan\.json.*ray-kd sweep"):
        analyze(made, "digits")


@pytest.mark.parametrize("way", daily(WAYS))
@pytest.mark.parametrize("table", ["trials", "epochs", "paths"])
def test_damaged_tables_are_named_and_written_anew(made: Path, table: str, way: str) -> None:
    folder = made / "sweeps" / "digits" / "tables"
    damaged(folder / f"{table}.parquet", way)
    with pytest.raises(UserError, match=rf"{table}\.parquet.*ray-kd analyze"):
        read_tables(folder)
    analyze(made, "digits")
    assert len(read_tables(folder).trials)


def test_tables_of_a_former_version_lack_columns_and_are_read(made: Path) -> None:
    folder = made / "sweeps" / "digits" / "tables"
    for table in ("trials", "paths"):
        old = pq.read_table(folder / f"{table}.parquet")
        pq.write_table(
            old.drop_columns([n for n in ("incomplete", "share") if n in old.column_names]),
            folder / f"{table}.parquet",
        )
    read = read_tables(folder)
    assert read.trials["incomplete"].isna().all()
    assert len(read.whole_paths) == len(read.paths) > 0
