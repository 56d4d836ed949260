"""What a search chose beside what was given: tested against its own kind, in a table of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from ray_kd.analysis.comparison import Comparison, compare_cells
from ray_kd.analysis.comparison_table import markdown, sections
from ray_kd.analysis.headline import headline
from ray_kd.analysis.pipeline import analyze
from ray_kd.analysis.records import read_records
from tests.analysis.make_records import Strategy, make_records
from tests.analysis.test_comparison import short_side

STRATEGIES = {
    "student alone": Strategy(top1=0.90),
    "equal": Strategy(("soft_target",), top1=0.91),
    "student alone (searched)": Strategy(top1=0.93),
    "equal (searched)": Strategy(("soft_target",), top1=0.94),
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies, as they were given and as a search set them."""
    return make_records(tmp_path_factory.mktemp("searched"), strategies=STRATEGIES, control=False, search=2)


@pytest.fixture(scope="module")
def comparison(storage: Path) -> Comparison:
    """The comparison of those."""
    return compare_cells(read_records(storage, "digits"))


def test_a_winner_is_tested_against_the_winner_of_the_baselines_search(comparison: Comparison) -> None:
    cells = {cell.name: cell for cell in comparison.cells}
    searched, given = cells["equal (searched)"].versus, cells["equal"].versus
    assert searched is not None
    assert given is not None
    own, alone = cells["equal (searched)"].seeds, cells["student alone (searched)"].seeds
    differences = [own[seed] - alone[seed] for seed in own]
    bounds = stats.ttest_1samp(differences, 0).confidence_interval(1 - 0.05 / 2)
    assert searched.difference.mean == pytest.approx(sum(differences) / len(differences))
    assert short_side(searched.difference) == pytest.approx((bounds.high - bounds.low) / 2)
    assert (searched.reference, given.reference) == ("student alone (searched)", "student alone")
    assert cells["student alone (searched)"].versus is None
    assert searched.looks.strategies == 2


def test_without_a_search_of_the_baseline_the_baseline_is_the_reference(tmp_path: Path) -> None:
    fewer = {name: strategy for name, strategy in STRATEGIES.items() if name != "student alone (searched)"}
    found = compare_cells(read_records(make_records(tmp_path, strategies=fewer), "digits"))
    assert {cell.versus.reference for cell in found.compared if cell.versus} == {"student alone"}


def test_two_tables_and_the_note_that_says_what_is_compared(storage: Path, tmp_path: Path) -> None:
    found = analyze(storage, "digits", tmp_path)
    text = markdown(found.comparison)
    given, searched = text.index("**Settings as given**"), text.index("**Settings chosen by a search**")
    assert given < text.index("| student alone |") < searched < text.index("student alone (searched) |")
    assert "What a search chose is compared with “student alone (searched)”" in text
    assert "eside “student alone (searched)”" in found.headline
    assert "Settings chosen by a search" in (tmp_path / "report.html").read_text()


def test_one_table_where_nothing_was_searched(tmp_path: Path) -> None:
    plain = {name: strategy for name, strategy in STRATEGIES.items() if "(" not in name}
    found = compare_cells(read_records(make_records(tmp_path, strategies=plain), "digits"))
    assert [title for title, _ in sections(found)] == [""]


def test_the_answer_says_of_each_what_it_was_compared_with(tmp_path: Path) -> None:
    more = {
        "adaptive": Strategy(("soft_target",), top1=0.87),
        "adaptive (searched)": Strategy(("soft_target",), top1=0.96),
        "fixed (searched)": Strategy(("soft_target",), top1=0.90),
    }
    storage = make_records(tmp_path, strategies={**STRATEGIES, **more}, control=False, seeds=8)
    found = headline(compare_cells(read_records(storage, "digits")))
    assert "2 of 3 strategies are better than “student alone (searched)”: " in found
    assert "better than “student alone”." in found
    assert "1 is worse: “adaptive”." in found
    assert "1 is worse: “fixed (searched)”." in found
