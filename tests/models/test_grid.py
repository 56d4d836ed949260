"""Every path of a task takes a step between networks of unlike families, whatever their layout.

`python -m tests.models.test_grid` writes what was found into docs/models.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("timm")
pytest.importorskip("transformers")

from tests.models.grid import NETWORKS, QUICK, line, refused

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
MARKED = re.compile(r"(<!-- table: networks and paths -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
SLOW = (pytest.mark.slow, pytest.mark.exhaustive)
HEAD = """| network | layout of its taps | strides | beside | as student | as teacher |
|---|---|---|---|---|---|
"""
SAYS = {
    "softmax_regression": "needs the teacher's head",
    "distillation_token": r"needs extra\['distillation'\]",
}
"""What the only paths that may refuse a network say."""


def on_the_page() -> list[str]:
    found = MARKED.search(PAGE.read_text())
    assert found is not None
    return found[2].removeprefix(HEAD).splitlines()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else SLOW) for name in NETWORKS]
)
def test_the_page_says_what_works(name: str) -> None:
    assert line(name) in on_the_page()


def test_the_page_has_these_networks_and_no_others() -> None:
    assert [row.split("|")[1].strip() for row in on_the_page()] == list(NETWORKS)


@pytest.mark.parametrize("teaches", [False, True])
@pytest.mark.parametrize("name", QUICK)
def test_what_is_refused_says_why(name: str, teaches: bool) -> None:
    for path, said in refused(NETWORKS[name], teaches).items():
        assert re.search(SAYS[path], said), said


if __name__ == "__main__":
    table = HEAD + "".join(f"{line(name)}\n" for name in NETWORKS)
    PAGE.write_text(MARKED.sub(lambda found: found[1] + table + found[3], PAGE.read_text()))
