"""The picture of the first page says what the demo's table says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.overview import ROOT, TABLE, answer, drawing, read_rows
from ray_kd.config.errors import UserError

IMAGES = ROOT / "docs" / "images"


@pytest.mark.parametrize(("name", "wide"), [("overview.svg", True), ("overview_narrow.svg", False)])
def test_it_is_drawn_from_the_table(name: str, wide: bool) -> None:
    assert (IMAGES / name).read_text(encoding="utf-8") == drawing(wide), "run python analysis/overview.py"


def test_its_rows_are_those_of_the_table() -> None:
    paths, rows = read_rows()
    text = TABLE.read_text(encoding="utf-8")
    assert paths == ["soft target", "logits", "attention transfer", "NST"]
    assert [row.name for row in rows if row.mean is None] == ["student alone"]
    for row in rows:
        assert f"| {row.name} |" in text
        assert row.mean is None or row.low <= row.mean <= row.high
        assert row.mean is None or f"{abs(row.mean):.2f} [" in text
        assert len(row.paths) == {"student alone": 0, **dict.fromkeys(paths, 1)}.get(row.name, 4)


def test_the_text_for_those_who_do_not_see_it_says_the_same() -> None:
    """Verdicts in it are counted as the table counts them."""
    verdicts = [row.verdict for row in read_rows()[1] if row.mean is not None]
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    alt = page.split('alt="')[1].split('"')[0]
    assert f"{verdicts.count('better')} of {len(verdicts)} strategies are better" in alt
    assert f"{verdicts.count('open')} are open and {verdicts.count('worse')} is worse" in alt
    assert answer(read_rows()[1]) in drawing(wide=True)


def test_another_table_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "1.md"
    file.write_text("no table")
    with pytest.raises(UserError, match="expected a table with the columns strategy, difference<br>points"):
        read_rows(file)
    file.write_text(TABLE.read_text(encoding="utf-8").replace("| NST |", "| NTS |"))
    with pytest.raises(UserError, match="strategy 'NTS' is none of"):
        read_rows(file)
    file.write_text(re.sub(r" \[.*?\]", "", TABLE.read_text(encoding="utf-8")))
    with pytest.raises(UserError, match="'soft target' has no interval"):
        read_rows(file)
