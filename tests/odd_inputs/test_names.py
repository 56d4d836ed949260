"""Names as people write them go unharmed through every surface, or are refused before anything trains.

Cases: matplotlib/matplotlib issue 20266, telperion/nine-or-null issue 14 (a '$' in a label breaks a figure).
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ray_kd.analysis import analyze, plots
from ray_kd.analysis.pipeline import Analysis
from ray_kd.cluster.plan import plan_table
from ray_kd.config import names
from ray_kd.config.errors import UserError
from ray_kd.config.screen import show
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.tracking.wandb import cell_of
from tests.analysis.make_records import ALL, Strategy, make_records, make_tasks
from tests.helpers import TINY

ODD = [
    r"$\alpha_{$",
    "$x$ and $$",
    "two\nlines",
    "<script>alert(1)</script> & &amp; <b>",
    "a|b|c",
    "x=1, y=[nst], [bold]z[/bold] :smile:",
    '=HYPERLINK("http://x")',
    "+1",
    "-1",
    "@sum(A1)",
    "'quoted' \"twice\" `code`",
    "\U0001f600 \u4e2d\u6587",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "../../etc/passwd",
    "a/b\\c",
    "_begins",
    "**bold** _it_ ~~gone~~ [link](http://x) # no",
    "{braces} {0} %s %(x)s",
    "A" * 300,
    "A" * 299 + "B",
]
BASELINE = r"$\beta_{$ |alone|"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """A sweep whose cells have all these names."""
    cells = {BASELINE: Strategy(top1=0.8)}
    cells |= {name: Strategy(ALL[:2], "adaptive", top1=0.8 + place / 200) for place, name in enumerate(ODD)}
    root = make_records(
        tmp_path_factory.mktemp("odd"),
        strategies=cells,
        seeds=2,
        epochs=4,
        control=False,
        baseline=BASELINE,
    )
    return analyze(root, "digits")


def test_every_figure_is_drawn(found: Analysis) -> None:
    assert not found.left_out
    drawn = {Path(name).name for name in found.files if name.startswith("plots/")}
    assert drawn == {f"{n}.{e}" for n in ("comparison", "weights", "losses") for e in ("png", "svg")}


def test_the_csv_holds_every_name_and_no_formula(found: Analysis) -> None:
    with open(found.files["table.csv"], encoding="utf-8", newline="") as file:
        cells = [row["strategy"] for row in csv.DictReader(file)]
    assert [cell.removeprefix("'") if cell[1:2] in "=+-@" else cell for cell in cells] == [BASELINE, *ODD]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]


def test_the_markdown_table_has_its_columns_and_no_markup_of_a_name(found: Analysis) -> None:
    text = Path(found.files["table.md"]).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 1 + len(ODD)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {11}
    assert not re.search(r"(?<!\\)<(script|b)>", text)
    assert not re.search(r"(?<!\\)\$", text), "GitHub takes dollars for formulas"
    shown = [re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", row.split(" | ")[0][2:].strip("*")) for row in rows[2:]]
    assert names.one_line(ODD[2]) in shown
    assert "a|b|c" in "".join(shown)


class Page(HTMLParser):
    """The tags of a page, and the text of its row headings."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.heads: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._inside = tag == "th" and ("scope", "row") in attrs
        if self._inside:
            self.heads.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.heads[-1] += data


def test_the_page_shows_every_name_and_runs_none(found: Analysis) -> None:
    page = Page()
    page.feed(Path(found.files["report.html"]).read_text(encoding="utf-8"))
    assert page.heads == [BASELINE, *ODD]
    assert "script" not in page.tags


def test_the_terminal_shows_every_name(found: Analysis) -> None:
    console = Console(width=2000, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found.table)
    text = console.export_text()
    for name in ODD:
        for line in name.split("\n"):
            assert line in text, name


def test_the_plan_and_the_progress_take_brackets_for_brackets(tmp_path: Path) -> None:
    cells = {"[red]a[/b]": {"paths": []}, "x=[nst]": {"optimizer.lr": 0.2}}
    sweep = SweepSpec.parse({"name": "x", "base": {**TINY, "storage": str(tmp_path)}, "cells": cells})
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for trials in (False, True):
        console.print(plan_table(sweep, trials=trials))
    show("x=[nst], [red]a[/b] :smile:: epoch 1", console)
    text = console.export_text()
    assert text.count("[red]a[/b]") == 1 + 5 + 1
    assert "x=[nst], [red]a[/b] :smile:: epoch 1" in text


def test_a_sweep_over_tasks_with_odd_strategies(tmp_path: Path) -> None:
    values = [0.8, 0.82, 0.81]
    test = {
        task: {
            "student alone": values,
            "=1|$\\a_{$": [value + 0.02 for value in values],
            "teacher": [0.9],
        }
        for task in ("classification", "segmentation")
    }
    found = analyze(make_tasks(tmp_path, test), "tasks")
    assert not found.left_out
    assert "'=1|$" in Path(found.files["table.csv"]).read_text()
    assert "=1\\|\\$" in Path(found.files["table.md"]).read_text()


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_cells_and_labels_are_taken(name: str) -> None:
    sweep = SweepSpec.parse(
        {"name": "x", "base": TINY, "cells": {name: {"paths": []}}, "controls": {f"{name} 2x": {"paths": []}}}
    )
    assert sweep.plan().trials[0].cell == name
    assert SweepSpec.parse(_read(sweep.to_yaml())) == sweep
    spec = sweep.plan().trials[0].spec
    assert RunSpec.parse(_read(spec.to_yaml())) == spec
    assert cell_of(spec.name, "x") == name
    assert 0 < len(names.wandb_name(spec.name)) <= 128
    if not set(name) & set("/,"):
        label = {"name": "soft_target", "label": name}
        assert RunSpec.parse({**TINY, "paths": [label]}).paths[0].label == name


def _read(text: str) -> Any:
    from ray_kd.config.yamlio import parse_yaml

    return parse_yaml(text, "here")


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"": {}}, ["name"]),
        ({" \n": {}}, ["name"]),
        ({"a\x1b[31m": {}}, ["control", "U+001B"]),
        ({"a\x00": {}}, ["control", "U+0000"]),
        ({"a\r": {}}, ["control", "U+000D"]),
        ({"a\ud800": {}}, ["U+D800"]),
        ({"a" * 501: {}}, ["500", "501"]),
        ({"a b": {}, "a\nb": {}}, ["two cells", "'a b'"]),
        ({"a": {}, " a": {}}, ["two cells", "'a'"]),
        ({"\u00e9": {}, "e\u0301": {}}, ["two cells"]),
        ({"a (searched)": {}}, ["a (searched)", "search"]),
    ],
)
def test_names_that_cannot_be_shown_or_told_apart_are_refused_before_anything_trains(
    cells: dict[str, Any], says: list[str]
) -> None:
    for key in ("cells", "controls"):
        with pytest.raises(UserError) as error:
            SweepSpec.parse({"name": "x", "base": TINY, "cells": {"other": {}}, key: cells})
        for word in says:
            assert word in str(error.value), str(error.value)


@pytest.mark.parametrize("name", ["a/b", "../x", "a" * 101, "", "a b", "$", ".hidden", "a\nb"])
def test_a_sweep_is_called_what_a_folder_can_be(name: str) -> None:
    with pytest.raises(UserError, match="'name'"):
        SweepSpec.parse({"name": name, "base": TINY, "cells": {"other": {}}})


@pytest.mark.parametrize("label", ["a/b", "a, b", "", "\x1b[1m", "a" * 501])
def test_labels_of_paths_that_records_cannot_hold_are_refused(label: str) -> None:
    with pytest.raises(UserError, match=r"paths\.0\.label"):
        RunSpec.parse({**TINY, "paths": [{"name": "soft_target", "label": label}]})


def test_long_names_stay_apart_where_they_are_cut() -> None:
    long = [name for name in ODD if len(name) > names.IN_FIGURES]
    assert len({names.shortened(name) for name in long}) == len(long) > 1
    assert all(len(names.shortened(name)) <= names.IN_FIGURES for name in long)
    assert names.shortened("a\nb") == "a b"


def test_one_figure_that_fails_is_left_out_said_once_and_all_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = {"student alone": Strategy(), "other": Strategy(ALL[:2], "adaptive")}
    root = make_records(tmp_path, strategies=cells, seeds=2, epochs=4, control=False)

    def broken(*_: Any) -> None:
        raise RuntimeError("no such glyph")

    monkeypatch.setattr(plots, "weights_picture", broken)
    found = analyze(root, "digits")
    assert len(found.left_out) == 1
    assert "'weights'" in found.left_out[0]
    assert "no such glyph" in found.left_out[0]
    assert {"table.md", "table.csv", "report.html", "plots/comparison.png", "plots/losses.svg"} <= set(
        found.files
    )
    assert not [name for name in found.files if "weights" in name]
    assert "no such glyph" in Path(found.files["report.html"]).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["analyze", "report"])
def test_the_exit_code_says_that_a_figure_is_missing(tmp_path: Path, verb: str) -> None:
    root = make_records(tmp_path, strategies={"student alone": Strategy()}, seeds=2, epochs=4, control=False)
    code = (
        "import sys, ray_kd.analysis.plots as plots\n"
        "def broken(*_): raise RuntimeError('no such glyph')\n"
        "plots.comparison_picture = broken\n"
        "from ray_kd.cli.main import main\n"
        f"main(['{verb}', {str(root)!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("could not be drawn") == 1
    assert "Traceback" not in done.stderr
    assert (root / "sweeps" / "digits" / "report.html").exists()
