"""Large sweeps: a verb opens the files that it needs and no others, and tables show the foremost of many."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from ray_kd.analysis import comparison_table, plot_comparison, read_records, records
from ray_kd.analysis.comparison import Comparison, compare_cells
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.report import report_html
from ray_kd.analysis.run_files import _parse_by_key, parse_spec
from ray_kd.cli.main import app
from ray_kd.config.spec import RunSpec
from ray_kd.config.yamlio import dump_yaml
from ray_kd.storage import Store, whole_lines
from tests.analysis.make_records import STRATEGIES, make_records
from tests.helpers import TINY

CELLS = {name: STRATEGIES[name] for name in ("student alone", "NST", "logits", "adaptive by path")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_records(tmp_path_factory.mktemp("scale"), strategies=CELLS, seeds=3, epochs=4)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a file of each name was read from a storage."""
    found: Counter[str] = Counter()
    read = Store.read

    def counting(store: Store, path: str) -> bytes:
        found[path.rpartition("/")[2]] += 1
        return read(store, path)

    monkeypatch.setattr(Store, "read", counting)
    return found


def test_status_opens_of_a_run_that_has_ended_its_summary_alone(root: Path, opened: Counter[str]) -> None:
    shown = CliRunner().invoke(app, ["status", str(root)], catch_exceptions=False)
    assert "best student by validation" in shown.output
    trials = len(read_records(root, "digits").trials)
    opened.clear()
    CliRunner().invoke(app, ["status", str(root)], catch_exceptions=False)
    assert opened["summary.json"] == trials
    assert not {"spec.yaml", "environment.json", "epochs.jsonl", "paths.jsonl", "lock"} & opened.keys()


def test_how_trials_stand_is_the_same_with_and_without_their_other_files(root: Path) -> None:
    whole, alone = read_records(root, "digits").trials, read_records(root, "digits", whole=False).trials
    said = ["sweep", "cell", "seed", "phase", "identity", "status", "reason", "monitor", "mode", "task"]
    said += [name for name in whole if str(name).startswith(("best_", "last_"))]
    planned = whole["phase"] != "teacher"
    pd.testing.assert_frame_equal(whole[planned][said], alone[planned][said])


def test_records_are_the_same_in_whatever_parts_they_are_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = read_records(root, "digits")
    monkeypatch.setattr(records, "AT_ONCE", 2)
    in_parts = read_records(root, "digits")
    for table in ("trials", "epochs", "paths"):
        pd.testing.assert_frame_equal(getattr(at_once, table), getattr(in_parts, table))


@pytest.mark.parametrize(
    "text",
    [
        RunSpec.parse(TINY).to_yaml(),
        RunSpec.parse(TINY).to_yaml()[:-7],
        "# by hand\na: 1\nb: [1, 2]\n",
        "a: &x {b: 1}\nc: *x\n",
        "a: 1\na: 2\n",
        "a:\n- b\n- c: |\n    d: e\nf: 'g\n  h'\n",
        "a: 1\n---\nb: 2\n",
        "a: 1\nb\nc: 2\n",
        "a: 1\nb: \0\n",
        dump_yaml({"name": "two\nlines: of text", "paths": [{"name": "nst"}]}),
        "",
        None,
    ],
)
def test_a_spec_is_the_same_key_by_key(text: str | None) -> None:
    assert _parse_by_key(text) == parse_spec(text)


@pytest.mark.parametrize(
    ("data", "entries", "torn"),
    [
        (b'{"a": 1}\n{"a": 2}\n', 2, False),
        (b'{"a": 1}\n{"a": 2', 1, True),
        (b'{"a": [{"b": 1}\n{"c": 2}]}\n', 0, True),
        (b'{"a": 1}, {"b": 2}\n{"c": 3}\n', 1, True),
        (b'{"a": "\xff"}\n{"a": 1}\n', 1, True),
        (b'\n\n{"a": 1}\n\0\0\0\n', 1, True),
        (b"", 0, False),
    ],
)
def test_lines_are_whole_or_torn_each_by_itself(data: bytes, entries: int, torn: bool) -> None:
    found, damaged = whole_lines(data)
    assert (len(found), damaged) == (entries, torn)


@pytest.fixture(scope="module")
def comparison(root: Path) -> Comparison:
    return compare_cells(read_records(root, "digits"))


@pytest.mark.parametrize("most", [1, 2])
def test_of_many_the_best_stand_beside_the_baseline(comparison: Comparison, most: int) -> None:
    shown = comparison.foremost(most)
    assert len(shown) == most + 1
    assert comparison.baseline in shown
    means = {cell.name: cell.best.mean for cell in shown if not comparison.is_reference(cell)}
    left = [cell.best.mean for cell in comparison.cells if cell not in shown and cell.versus is not None]
    same = {cell.versus.verdict for cell in comparison.compared if cell.versus} == {"open"}
    assert not same or min(means.values()) >= max(left)
    assert f"these are the {most} with" in comparison.left_out(most)
    assert comparison.foremost(3) == list(comparison.cells)
    assert comparison.left_out(3) == ""


def test_files_have_every_strategy_and_tables_that_people_read_the_foremost(
    root: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (comparison_table, plot_comparison):
        monkeypatch.setattr(module, "MOST", 1)
    monkeypatch.setattr("ray_kd.analysis.report.MOST", 1)
    (gone,) = {cell.name for cell in comparison.foremost(2)} - {cell.name for cell in comparison.foremost(1)}
    picture = plot_comparison.comparison_picture(comparison)
    page = report_html(read_records(root, "digits"), comparison, [], Folder.open(root), str(root))
    row = f'<th scope="row" dir="auto">{gone}</th>'
    assert row not in page
    assert "table.csv has all" in page
    assert picture is not None
    assert "table.csv has all" in picture.caption
    assert comparison_table.terminal_table(comparison).row_count == 2
    assert len(comparison_table.as_csv(comparison).splitlines()) == 1 + len(comparison.cells)
    assert f"| {gone} |" in comparison_table.markdown(comparison)
