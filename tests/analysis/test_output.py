"""What people see: the table in three forms, the report, the verb's parts, the scripts."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import re
import runpy
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from ray_kd.analysis import analyze
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.comparison_table import CSV_COLUMNS, SPARE, as_csv, markdown, rows, terminal
from ray_kd.analysis.pipeline import PARTS, Analysis
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.report import report_html
from ray_kd.cli.main import main
from ray_kd.config.errors import UserError
from tests.analysis.make_records import STRATEGIES, Strategy, make_records

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "analysis"


def printed(comparison: Comparison, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), legacy_windows=False)
    console.print(terminal(comparison))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def long_names(comparison: Comparison) -> Comparison:
    cells = [
        dataclasses.replace(cell, name=f"paths=soft_target+nst, aggregation=fixed, k={i}")
        for i, cell in enumerate(comparison.cells)
    ]
    return dataclasses.replace(comparison, cells=tuple(cells))


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("rename", [False, True])
def test_the_table_fits_a_terminal_and_cuts_nothing(comparison: Comparison, width: int, rename: bool) -> None:
    shown = long_names(comparison) if rename else comparison
    lines = printed(shown, width)
    assert max(len(line.rstrip()) for line in lines) <= width
    assert not any("…" in line for line in lines)
    text = re.sub(r"\s+", "", "".join(lines))
    for row in rows(shown):
        for index, entry in enumerate(row.entries):
            if index and index not in SPARE:
                assert all(part in text for part in entry.split())


def test_notes_speak_of_the_columns_that_the_table_has(comparison: Comparison) -> None:
    """A terminal of 80 columns leaves some out; Markdown has all of them."""
    spare, whole = set(SPARE.values()), markdown(comparison)
    lines = printed(comparison, 80)
    heads = " ".join(lines[: next(index for index, line in enumerate(lines) if "─" in line)]).split()
    missing = spare - set(heads)
    assert missing
    text = " ".join(" ".join(lines).split())
    for column in spare:
        assert f" {column}: " in whole
        assert (f" {column}: " in text) is (column not in missing)


def test_the_table_says_how_many_of_how_many(comparison: Comparison) -> None:
    line = next(line for line in printed(comparison, 100) if line.startswith("published"))
    assert "3/5" in line.split()


def test_markdown_has_a_row_for_each_cell_and_only_verdicts_that_are_decided_are_bold(
    comparison: Comparison,
) -> None:
    table = [line for line in markdown(comparison).splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(comparison.cells)
    assert {line.count("|") for line in table} == {11}
    for line, cell in zip(table[2:], comparison.cells, strict=True):
        decided = cell.versus is not None and cell.versus.verdict.decided
        assert re.findall(r"\*\*(.*?)\*\*", line) == (
            [cell.versus.verdict] if decided and cell.versus else []
        )


def test_csv_holds_the_numbers_at_full_precision(comparison: Comparison) -> None:
    entries = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert tuple(entries[0]) == CSV_COLUMNS
    for entry, cell in zip(entries, comparison.cells, strict=True):
        assert float(entry["best_mean"]) == cell.best.mean
        assert int(entry["n"]) == cell.n
        if cell.versus is None:
            assert entry["verdict"] == entry["p"] == entry["look"] == ""
            continue
        judged = cell.versus.judged
        assert (entry["verdict"], int(entry["look"])) == (judged.verdict, judged.look)
        assert entry["p"] == ("" if math.isnan(judged.p) else repr(judged.p))
        assert entry["level"] == "" or float(entry["level"]) == pytest.approx(1 - 0.05 / 8)
        assert (entry["level"] == "") is (judged.look == 0)
    assert entries[0]["agreement_mean"] == ""  # the student alone has no teacher to agree with


class Page(HTMLParser):
    """Every attribute, and whether each tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_needs_nothing_else(analysis: Analysis) -> None:
    text = Path(analysis.files["report.html"]).read_text()
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _, _ in page.attributes}
    assert not tags & {"script", "link", "iframe", "object"}
    references = [value for _, name, value in page.attributes if name in ("src", "href", "srcset")]
    assert len(references) == 3
    assert all(value.startswith("data:image/svg+xml;base64,") for value in references)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", text)
    assert "@import" not in text
    assert "url(" not in text


def test_the_report_says_what_it_must(analysis: Analysis) -> None:
    text = unescape(Path(analysis.files["report.html"]).read_text())
    for words in (
        analysis.headline,
        "Which strategies make the student small_cnn better or worse than “student alone” on digits, by test",
        "the loss became nan in epoch 7",
        "repeated confidence intervals",
        "The intervals of all 8 strategies at the look at 5 seeds hold together at 95 %",
        "Test data are read once",
        "2.15.0",
        "<dd>digits (labels 200)</dd>",
        "labels: 200",
        "ray-kd sweep",
        "prefers-color-scheme: dark",
    ):
        assert words in text, words


def test_names_are_escaped(records: Records, comparison: Comparison, storage: Path) -> None:
    cells = (dataclasses.replace(comparison.cells[0], name="<b>&"), *comparison.cells[1:])
    odd = dataclasses.replace(comparison, cells=cells)
    text = report_html(records, odd, [], Folder.open(storage), "results")
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;" in text
    assert Page(text).open == []


def test_everything_is_written_where_the_contract_says(analysis: Analysis) -> None:
    figures = {
        f"plots/{name}.{kind}" for name in ("comparison", "weights", "losses") for kind in ("png", "svg")
    }
    tables = {f"tables/{name}.parquet" for name in ("trials", "epochs", "paths", "comparison")}
    assert set(analysis.files) == {*figures, *tables, "table.md", "table.csv", "report.html"}
    assert all(Path(path).stat().st_size > 500 for path in analysis.files.values())


def test_a_live_sweep_is_analysed_in_place(tmp_path: Path) -> None:
    cells = {name: STRATEGIES[name] for name in ("student alone", "NST")}
    running = {(cell, seed): "running" for cell in cells for seed in (0, 1)}
    root = make_records(tmp_path / "results", strategies=cells, statuses=running, seeds=2, epochs=6)
    analysis = analyze(str(root), "digits")
    assert analysis.headline.startswith("No result yet")
    assert (root / "sweeps" / "digits" / "report.html").exists()
    assert "plots/comparison.png" not in analysis.files
    assert "plots/losses.png" in analysis.files


def test_the_sweep_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="no sweep at"):
        analyze(tmp_path)
    for name in ("one", "two"):
        (tmp_path / "sweeps" / name).mkdir(parents=True)
        (tmp_path / "sweeps" / name / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="several sweeps, name one of them: one, two"):
        analyze(tmp_path)


WRITES = {
    "tables": {f"tables/{name}.parquet" for name in ("trials", "epochs", "paths")},
    "comparison": {"table.md", "table.csv", "tables/comparison.parquet"},
    "plots": {f"plots/{name}.{kind}" for name in ("comparison", "losses") for kind in ("png", "svg")},
    "report": {"report.html"},
}
"""What each part writes of a sweep whose weights do not move; pictures are in test_predictions.py."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells = {name: STRATEGIES[name] for name in ("student alone", "NST")}
    return make_records(tmp_path_factory.mktemp("small"), strategies=cells, seeds=2, epochs=4)


def files_below(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "only",
    [["tables"], ["comparison"], ["plots"], ["report"], ["comparison,plots"], ["tables", "report"], []],
)
def test_only_writes_the_parts_that_are_named_and_nothing_else(
    only: list[str], small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {name for listed in only for name in listed.split(",")} or WRITES.keys()
    with pytest.raises(SystemExit) as ended:
        main(["analyze", str(small), "--out", str(tmp_path), *(f"--only={listed}" for listed in only)])
    assert ended.value.code == 0
    assert files_below(tmp_path) == {file for name in named for file in WRITES[name]}
    shown = capsys.readouterr().out
    assert all(Path(file).name in shown.replace("\n", "") for file in files_below(tmp_path))
    assert ("agree" in shown) is ("comparison" in named), "the table is printed where it is written"


def test_the_help_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["analyze", "--help"])
    shown = capsys.readouterr().out
    for part in PARTS:
        assert re.search(rf"^ +{part} +\w", shown, re.MULTILINE), part


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "plot"], "only: unknown part 'plot'. Did you mean 'plots'?"),
        (["--only", "tables,"], f"only: unknown part ''. Known: {', '.join(sorted(PARTS))}."),
        (["--only", "plots", "--strategy", "NST"], "--strategy NST: it is an option of pictures"),
        (["--images", "3"], "--images 3: it is an option of pictures"),
        (["--only", "pictures"], "only pictures: sweep 'digits' has no task of segmentation or detection"),
    ],
)
def test_a_mistaken_part_is_named_and_nothing_is_written(
    arguments: list[str], message: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["analyze", str(small), "--out", str(tmp_path), *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert files_below(tmp_path) == set()


def test_tables_are_written_of_records_that_cannot_be_compared(tmp_path: Path) -> None:
    root = make_records(tmp_path, strategies={"student alone": Strategy()}, seeds=2, epochs=4, control=False)
    plan = root / "sweeps" / "digits" / "plan.json"
    plan.write_text(plan.read_text().replace('"top1"', '"top2"'))
    with pytest.raises(UserError, match="unknown metric"):
        analyze(root, only="comparison")
    assert set(analyze(root, only="tables").files) == WRITES["tables"]


def python(*arguments: str | Path, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """A Python process of its own, in another folder than the clone."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_verb_imports_no_trainer_and_names_a_mistake(tmp_path: Path) -> None:
    done = python("-X", "importtime", "-m", "ray_kd", "analyze", tmp_path, cwd=tmp_path, path=str(ROOT))
    *imports, error = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert error.startswith("ray-kd: storage: no sweep at")
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}
    assert {"ray_kd", "pandas", "matplotlib"} <= modules
    assert not {"ray", "wandb", "torch"} & modules


@pytest.mark.parametrize("script", ["tables", "judge", "shares", "draws"])
def test_each_script_runs_from_any_folder_and_names_a_mistake(script: str, tmp_path: Path) -> None:
    """It finds the clone by itself: PYTHONPATH is empty."""
    done = python(SCRIPTS / f"{script}.py", tmp_path, "--sweep", "none", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "unknown sweep 'none'" in line


def test_the_script_of_tables_reads_a_whole_storage(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the runs that no sweep planned, which the verb leaves to the script."""
    monkeypatch.setattr(sys, "argv", ["tables", str(small), "--out", str(tmp_path)])
    runpy.run_path(str(SCRIPTS / "tables.py"), run_name="__main__")
    assert files_below(tmp_path) == {"trials.parquet", "epochs.parquet", "paths.parquet"}


def test_script_names_shadow_no_module_of_the_standard_library() -> None:
    names = {file.stem for file in SCRIPTS.glob("*.py")}
    assert {"tables", "judge", "shares", "draws"} <= names
    assert not names & sys.stdlib_module_names
