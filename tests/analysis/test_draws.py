"""Several draws of one sweep: only what all of them say stands."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_kd.config.errors import UserError
from tests.analysis.make_records import STRATEGIES, make_records

SCRIPT = Path(__file__).parents[2] / "analysis" / "draws.py"


def draw(root: Path, name: str, **means: float) -> Path:
    """A draw whose strategies have these means, with seeds that differ by a twentieth of a point."""
    values = {
        (cell, seed): round(means.get(cell.replace(" ", "_"), strategy.top1) + 0.0005 * seed * (index % 3), 6)
        for index, (cell, strategy) in enumerate(STRATEGIES.items())
        for seed in range(5)
    }
    return make_records(root / name, values=values, epochs=3)


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("draws")
    return [
        draw(root, "first", soft_target=0.95, logits=0.95, NST=0.80),
        draw(root, "second", soft_target=0.95, logits=0.85, NST=0.80),
    ]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The script, called with these arguments; what it prints."""
    main = runpy.run_path(str(SCRIPT))["main"]

    def call(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return call


def rows(text: str) -> list[list[str]]:
    """The entries of every row of a table, from Markdown."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def test_verdicts_are_counted_and_only_those_of_nearly_all_draws_are_said(
    draws: list[Path], tmp_path: Path, run: Callable[..., str]
) -> None:
    """Better in both, worse in both, and a strategy that is better in one and worse in the other."""
    printed = run(*draws, "--out", tmp_path)
    text = (tmp_path / "draws.md").read_text()
    assert text in printed
    head, *table = rows(text)
    counts = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in table if len(row) == len(head)}
    assert head == ["strategy", "better", "worse", "open", "difference in test top-1, points"]
    assert counts["soft target"] | {"difference in test top-1, points": ""} == {
        "better": "**2**",
        "worse": "0",
        "open": "0",
        "difference in test top-1, points": "",
    }
    assert counts["NST"]["worse"] == "**2**"
    assert (counts["logits"]["better"], counts["logits"]["worse"]) == ("1", "1")
    assert counts["logits"]["difference in test top-1, points"] == "\N{MINUS SIGN}6.30 to +3.70"
    said = {line.split("**")[1]: line for line in text.splitlines() if line.startswith("- In 2 of 2 draws ")}
    assert "soft target" in said["better"]
    assert "NST" in said["worse"]
    assert not any("logits" in line for line in said.values())
    assert (tmp_path / "draws.png").stat().st_size > 0


def test_every_draw_has_its_own_table(draws: list[Path], tmp_path: Path, run: Callable[..., str]) -> None:
    run(*draws, "--label", "one", "--label", "other", "--out", tmp_path)
    text = (tmp_path / "draws.md").read_text()
    assert "- [one](1.md): seeds 0 to 4; " in text
    assert "- [other](2.md): seeds 0 to 4; " in text
    assert "+3.70 [" in (tmp_path / "1.md").read_text()  # logits: 0.950 + 0.002 against 0.915
    assert "\N{MINUS SIGN}6.30 [" in (tmp_path / "2.md").read_text()
    means = {row[0]: row[1:] for row in rows(text) if len(row) == 3}
    assert means["strategy"] == ["one", "other"]
    assert means["logits"] == ["**+3.70**", "**\N{MINUS SIGN}6.30**"]


def test_labels_are_one_for_each_draw(draws: list[Path], run: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="--label: 1 given for 2 draws; expected one for each, or none"):
        run(*draws, "--label", "one")


def test_what_holds_goes_between_the_comments_of_a_page(
    draws: list[Path], tmp_path: Path, run: Callable[..., str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- written by analysis/draws.py -->\nold\n<!-- until here -->\nbelow\n")
    for _ in range(2):  # a second time replaces what the first one wrote
        printed = run(*draws, "--into", page)
        above, *written, below = [line for line in page.read_text().splitlines() if line]
        assert (above, below) == ("above", "below")
        assert "old" not in written
        assert set(written[1:-1]) <= set(printed.splitlines())
        assert sum(line.startswith("- In 2 of 2 draws ") for line in written) == 2
    page.write_text("no comments\n")
    with pytest.raises(UserError, match="needs the lines <!-- written by"):
        run(*draws, "--into", page)
    assert page.read_text() == "no comments\n"
