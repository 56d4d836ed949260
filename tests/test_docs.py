"""Links of the pages resolve, and the files that they show are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page in seen:
            continue
        seen.add(page)
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose(page))]
        left += [(page.parent / link).resolve() for link in links if link.endswith(".md") and ":" not in link]
    assert set(PAGES) <= seen


def shown(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_the_readme_shows_files_that_run(tmp_path: Path) -> None:
    run, sweep = shown("README.md")
    (tmp_path / "run.yaml").write_text(run)
    (tmp_path / "sweep.yaml").write_text(sweep)
    assert RunSpec.load(tmp_path / "run.yaml").student.component_name == "digits_cnn"
    plan = SweepSpec.load(tmp_path / "sweep.yaml").plan()
    assert len(plan.trials) == 5 * (1 + 2 * 2) + 5


def test_the_page_on_sweeps_shows_a_sweep_that_can_be_planned(tmp_path: Path) -> None:
    cells, looks, tasks, search = map(yaml.safe_load, shown("docs/sweeps.md"))
    base = yaml.safe_load((ROOT / "sweeps" / "runs" / "digits.yaml").read_text())
    plan = SweepSpec.parse({**cells, **tasks, "base": base, "cells": {}}).plan()
    assert len({trial.cell for trial in plan.trials if trial.phase == "compare"}) == 2 * 3
    assert SweepSpec.parse({**cells, **looks, "base": base}).looks == (10, 16, 25, 40)
    data = {**cells, **search}
    data["base"] = str(ROOT / "sweeps" / "runs" / "digits.yaml")
    data["search"]["method"] = "random"  # whose candidates are known beforehand
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(data))
    phases = [trial.phase for trial in SweepSpec.load(file).plan().trials]
    assert phases.count("compare") == 5 * (2 + 4)
    assert phases.count("search") == 20
    assert phases.count("control") == 5


def test_the_readme_says_of_the_demo_what_its_draws_say() -> None:
    """Verdicts and their counts, as analysis/draws.py wrote them."""
    readme, draws = (ROOT / "README.md").read_text(), ROOT / "docs" / "results" / "demo" / "draws.md"
    written = readme.split("<!-- written by analysis/draws.py -->")[1].split("<!-- until here -->")[0]
    lines = [line for line in written.splitlines() if line]
    assert any(line.startswith("- In ") for line in lines)
    assert set(lines) <= set(draws.read_text().splitlines())
