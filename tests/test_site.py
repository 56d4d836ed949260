"""The site of docs/: it builds without a warning, its links lead somewhere, and it needs no network."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import ray_kd
from ray_kd import plugin
from ray_kd.cli.catalogue import catalogue
from ray_kd.cli.main import VERBS
from ray_kd.config.registry import REGISTRIES

ROOT = Path(__file__).parents[1]
EXTRA = ("mkdocs", "material", "mkdocstrings", "latex2mathml", "nbconvert")
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in EXTRA), reason="needs the extra 'docs'"
    ),
]


@dataclass
class Html(HTMLParser):
    """What a page of the site refers to."""

    file: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    assets: list[str] = field(default_factory=list)
    """What a browser fetches by itself."""
    unnamed: list[str] = field(default_factory=list)
    """Pictures without a text that stands for them."""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.assets.append(given["href"])
        self.assets += [given[name] for name in ("src", "srcset") if name in given]
        if tag == "img" and not given.get("alt"):
            self.unnamed.append(given["src"])


@dataclass
class Site:
    folder: Path

    @cached_property
    def pages(self) -> dict[Path, Html]:
        return {file: Html(file) for file in sorted(self.folder.rglob("*.html")) if file.name != "404.html"}

    def page(self, name: str) -> Html:
        return self.pages[self.folder / name]


def build(*options: str | Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` does. Not --quiet, with which no warning is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", *map(str, options)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site, without a warning."""
    folder = tmp_path_factory.mktemp("site")
    done = build("--site-dir", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return Site(folder)


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_that_nobody_finds_and_links_that_lead_nowhere_are_errors(tmp_path: Path) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text("# Index\n\n[a](none.md) [b](more.md#none) [c](/more.md)\n")
    (pages / "more.md").write_text("# More\n")
    config = {"INHERIT": str(ROOT / "mkdocs.yml"), "docs_dir": str(pages), "site_dir": str(tmp_path / "site")}
    less: dict[str, Any] = {"nav": [{"Index": "index.md"}], "hooks": [], "plugins": []}
    (tmp_path / "mkdocs.yml").write_text(json.dumps(config | less))
    done = build("--config-file", tmp_path / "mkdocs.yml")
    assert done.returncode == 1
    assert "'none.md', but the target is not found" in done.stderr
    assert "'more.md#none', but the doc 'more.md' does not contain an anchor '#none'" in done.stderr
    assert "an absolute link '/more.md'" in done.stderr
    assert 'not included in the "nav" configuration:\n  - more.md' in done.stderr


def test_every_link_leads_to_a_file_and_an_anchor_of_the_site(site: Site) -> None:
    """Those in raw HTML, in docstrings and in the theme too, which mkdocs does not check."""
    lost = []
    for page in site.pages.values():
        for link in [*page.links, *page.assets]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.file.parent / unquote(parts.path)).resolve() if parts.path else page.file
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            found = target.is_file() and (
                not anchor or target not in site.pages or anchor in site.pages[target].anchors
            )
            if not found:
                lost.append(f"{page.file.relative_to(site.folder)}: {link}")
    assert lost == []


def test_nothing_is_fetched_from_a_network(site: Site) -> None:
    fetched = {asset for page in site.pages.values() for asset in page.assets if urlsplit(asset).netloc}
    for sheet in site.folder.rglob("*.css"):
        fetched |= set(re.findall(r"""(?:url\(|@import )["']?((?:https?:)?//[^"')]+)""", sheet.read_text()))
    assert fetched == set()


def test_every_picture_has_a_text(site: Site) -> None:
    assert {page.file.name: page.unnamed for page in site.pages.values() if page.unnamed} == {}


def test_search_needs_no_server(site: Site) -> None:
    """A page that is opened as a file may read scripts, and neither JSON nor workers."""
    text = (site.folder / "search" / "search_index.js").read_text(encoding="utf-8")
    found = {entry["location"] for entry in json.loads(text.removeprefix("var __index = "))["docs"]}
    assert {"reference/paths.html#soft_target", "python.html", "tutorials/notebook.html"} <= found
    assert "site/iframe-worker.js" in site.page("index.html").assets


def test_the_reference_has_all_that_ray_kd_has(site: Site) -> None:
    for kind in REGISTRIES:
        assert f"reference/{kind}.html" in site.page("index.html").links, "the first page lacks a door"
        assert {item.name for item in catalogue(kind)} <= site.page(f"reference/{kind}.html").anchors
    assert {f"ray-kd-{verb}" for verb, _ in VERBS} <= site.page("reference/commands.html").anchors
    names = {name for name in ray_kd.__all__ if not name.startswith("_")}
    python = {anchor.rpartition(".")[2] for anchor in site.page("reference/python.html").anchors}
    assert names <= python
    anchors = {anchor.rpartition(".")[2] for anchor in site.page("reference/plugin.html").anchors}
    assert {*plugin.__all__} <= {anchor.replace("-", "_") for anchor in anchors} | {"Field"}


def test_formulas_examples_and_pages_in_docstrings_are_shown_as_such(site: Site) -> None:
    for file in (site.folder / "reference").glob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert ":math:" not in text, file
        assert ".. math" not in text, file
        assert not re.search(r"<p>[^<]*&gt;&gt;&gt;", text), file
    assert "../models.html" in site.page("reference/python.html").links, "docs/models.md in Distiller"
    assert "<math" in (site.folder / "reference" / "paths.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("link", "page", "shown"),
    [
        ("[views](views.md#cifar)", "tasks.md", "[views](views.md#cifar)"),
        ("[it](../sweeps/digits.yaml)", "sweeps.md", "[it](files/sweeps/digits.yaml.md)"),
        ("[it](../../sweeps/digits.yaml)", "results/README.md", "[it](../files/sweeps/digits.yaml.md)"),
        ("[add](../CONTRIBUTING.md#rules)", "extending.md", "[add](contributing.md#rules)"),
        ("[extend](docs/extending.md)", "contributing.md", "[extend](extending.md)"),
        ("[a notebook](tutorials/notebook.ipynb)", "python.md", "[a notebook](tutorials/notebook.md)"),
        ("[photos/](photos/)", "tutorials/photos_timm.md", "`docs/tutorials/photos`"),
        ("[the scripts](../analysis)", "results.md", "the scripts (`analysis`)"),
        (
            "[paper](https://arxiv.org/abs/2110.09674)",
            "index.md",
            "[paper](https://arxiv.org/abs/2110.09674)",
        ),
        ("![a plot](plots/weights.png)", "results/README.md", "![a plot](plots/weights.png)"),
    ],
)
def test_links_that_leave_docs_stay_on_the_site(link: str, page: str, shown: str, hooks: Any) -> None:
    assert hooks.relinked(f"See {link}.", page) == f"See {shown}."


def test_a_list_begins_where_github_begins_it(hooks: Any) -> None:
    assert (
        hooks.spaced("Two things:\n- one,\n  and more\n- two\n")
        == "Two things:\n\n- one,\n  and more\n- two\n"
    )
    assert hooks.spaced("Text\n| a |\n| - |\n| 1 |\n") == "Text\n\n| a |\n| - |\n| 1 |\n"
    with pytest.raises(Exception, match="is to be indented by four spaces: - two"):
        hooks.spaced("- one\n  - two\n")


def test_a_formula_that_cannot_be_shown_is_an_error() -> None:
    from docs.site.formulas import mathml

    with pytest.raises(Exception, match=r"does not know \\unheard: \\unheard x"):
        mathml(r"\unheard x")
