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


def rows(text: str) -> dict[str, list[str]]:
    """Strategy -> its entries, from the table's Markdown."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines}


def test_only_what_all_draws_say_is_said(draws: list[Path], tmp_path: Path, run: Callable[..., str]) -> None:
    """Better in both, worse in both, and a strategy that is better in one and worse in the other."""
    run(*draws, "--out", tmp_path)
    table = rows((tmp_path / "draws.md").read_text())
    assert table["strategy"] == ["first", "second", "all draws"]
    assert table["soft target"][-1] == "**better**"
    assert table["NST"][-1] == "**worse**"
    first, second, said = table["logits"]
    assert said == "open"
    assert first.startswith("+3.70 [")  # 0.950 + 0.002 against 0.915
    assert second.startswith("\N{MINUS SIGN}6.30 [")
    assert (tmp_path / "draws.png").stat().st_size > 0


def test_one_draw_says_what_its_own_comparison_says(draws: list[Path], run: Callable[..., str]) -> None:
    table = rows(run(draws[0], "--label", "alone"))
    assert table["strategy"] == ["alone", "all draws"]
    assert table["logits"][-1] == "**better**"


def test_labels_are_one_for_each_draw(draws: list[Path], run: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="--label: 1 given for 2 draws; expected one for each, or none"):
        run(*draws, "--label", "one")
