"""What the site of docs/ has beside its Markdown files; mkdocs.yml names this module.

- Pages that ray-kd writes itself: its commands, every registered component with its options, its public
  Python names. They are written while the site is built, so that they cannot be out of date.
- The notebook, CONTRIBUTING.md and CHANGELOG.md as pages, and a page for every file outside docs/ that a page
  links to: on the repository's web page the link opens that file, on the site this page.
- Formulas of docstrings as MathML, which browsers show without a script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

sys.path.insert(0, str(Path(__file__).parents[2]))  # mkdocs need not run in the repository's folder

import ray_kd
from ray_kd import plugin
from ray_kd.cli.catalogue import Item, catalogue
from ray_kd.config.registry import REGISTRIES

ROOT = Path(__file__).parents[2]
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root by the page that stands for them."""
REGISTER = "ray_kd.config.registry.Registry.register"
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```")

Content = str | bytes


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Formulas are read on every page, docstrings included."""
    config.markdown_extensions.append(Formulas())
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    for uri, content in [*written(), *notebooks(), *of_the_root()]:
        files.append(File.generated(config, uri, content=content))
    pages = [file for file in files if file.is_documentation_page()]
    for path in sorted({path for file in pages for path in linked(file)}):
        to = uri_of(path)
        if to is not None and files.get_file_from_path(to) is None and not path.startswith("docs/"):
            files.append(File.generated(config, to, content=source_page(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Links lead to pages of the site, and lists and tables are found where GitHub finds them."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation", "toc"]  # its doors are both
    if page.file.src_uri.startswith("files/"):
        page.meta |= {"hide": ["navigation", "toc"], "search": {"boost": 0.5}}
    return "".join(
        part if FENCE.match(part) else spaced(relinked(part, page.file.src_uri)) for part in blocks(markdown)
    )


# Links


def place(uri: str) -> str:
    """The path in the repository that a page of the site stands for."""
    return next(
        (path for path, moved in MOVED.items() if moved == uri and path != "README.md"), f"docs/{uri}"
    )


def uri_of(path: str) -> str | None:
    """The page or file of the site that stands for a path of the repository; None where there is none."""
    if path in MOVED:
        return MOVED[path]
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    return f"files/{path}.md" if (ROOT / path).is_file() else None


def targets(text: str, uri: str) -> Iterator[tuple[re.Match[str], str, str]]:
    """Each relative link of a page with the path in the repository and the anchor that it leads to."""
    for match in LINK.finditer(text):
        path, _, anchor = match[2].partition("#")
        if path and not re.match(r"[a-z]+:", path):
            folder = PurePosixPath(place(uri)).parent
            yield match, os.path.normpath(folder / path), anchor


def linked(file: File) -> set[str]:
    prose = [part for part in blocks(file.content_string) if not FENCE.match(part)]
    return {path for part in prose for _, path, _ in targets(part, file.src_uri)}


def relinked(text: str, uri: str) -> str:
    """The text with its links as the site has them; a folder is named, since the site shows none.

    A link that leads nowhere stays as it is, and mkdocs complains.
    """
    for match, path, anchor in list(targets(text, uri)):
        to = uri_of(path)
        if (ROOT / path).is_dir():
            label = match[1].strip("`").rstrip("/")
            text = text.replace(match[0], f"`{path}`" if path.endswith(label) else f"{match[1]} (`{path}`)")
        elif to is not None:
            relative = os.path.relpath(to, PurePosixPath(uri).parent)
            text = text.replace(match[0], f"[{match[1]}]({relative}{'#' + anchor if anchor else ''})")
    return text


def blocks(markdown: str) -> Iterator[str]:
    """The text in parts: each fenced block of code, and what stands between them."""
    part, end = "", ""
    for line in markdown.splitlines(keepends=True):
        fence = FENCE.match(line)
        if fence and not end:
            yield part
            part, end = line, fence[0]
        elif end and line.rstrip() == end:
            yield part + line
            part, end = "", ""
        else:
            part += line
    yield part


def spaced(text: str) -> str:
    """An empty line before a list or a table that follows text: GitHub needs none, Python-Markdown does.

    Raises:
        PluginError: a list within a list that is indented by less than four spaces, which would not be one.
    """
    lines, before = list[str](), ""
    for line in text.splitlines(keepends=True):
        if re.match(r" {1,3}[-*] ", line):
            raise PluginError(f"a list within a list is to be indented by four spaces: {line.strip()}")
        item, table = re.match(r"([-*]|1\.) ", line), line.startswith("|")
        inside = before.startswith((" ", "|")) or re.match(r"([-*]|\d+\.) ", before)
        if before.strip() and ((item and not inside) or (table and not before.startswith("|"))):
            lines.append("\n")
        lines.append(line)
        before = line
    return "".join(lines)


# Pages that are files of other kinds


def of_the_root() -> Iterator[tuple[str, Content]]:
    for path, uri in MOVED.items():
        if path != "README.md":
            yield uri, (ROOT / path).read_text(encoding="utf-8")


def notebooks() -> Iterator[tuple[str, Content]]:
    for file in sorted((ROOT / "docs").rglob("*.ipynb")):
        folder = file.relative_to(ROOT / "docs").parent
        body, resources = MarkdownExporter().from_filename(
            str(file), {"output_files_dir": f"{file.stem}_files"}
        )
        body = body.replace("![png](", "![What the code above draws](")
        head, _, rest = body.partition("\n\n")
        download = f'<a href="{file.name}" download>The notebook as a file</a>'
        yield (folder / f"{file.stem}.md").as_posix(), f"{head.strip()}\n\n{download}\n\n{rest}"
        for name, content in resources["outputs"].items():
            yield (folder / name).as_posix(), content


def source_page(path: str) -> str:
    """A file of the repository as it stands there."""
    text = (ROOT / path).read_text(encoding="utf-8")
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"# {path}\n\n{fence}{Path(path).suffix.removeprefix('.')}\n{text}{fence}\n"


# Pages that ray-kd writes


@cache
def written() -> tuple[tuple[str, Content], ...]:
    components = [(f"reference/{kind}.md", component_page(kind)) for kind in REGISTRIES]
    return (
        ("reference/commands.md", commands()),
        ("reference/python.md", python_page()),
        ("reference/plugin.md", plugin_page()),
        *components,
    )


def commands() -> str:
    """Every verb with its arguments and options, as typer documents them."""
    text = subprocess.run(
        [sys.executable, "-m", "typer", "ray_kd.cli.main", "utils", "docs", "--name", "ray-kd"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    text = re.sub(r"^# .*", "# Commands", text.replace("\b", ""))
    text = re.sub(r"^(#+) `(.*)`$", r"\1 \2", text, flags=re.MULTILINE)
    # What the help indents (examples) is code.
    return re.sub(r"^([A-Z][\w ]*:)\n((?:  .*\n)+)", r"\1\n\n```text\n\2```\n", text, flags=re.MULTILINE)


def component_page(kind: str) -> str:
    items = catalogue(kind)
    lines = [
        f"# {kind.capitalize()}",
        "",
        f"What `ray-kd list {kind}` and `ray-kd list {kind} NAME` show: {len(items)} {kind}, each with its "
        f"options. A file names one of them alone, or with options, as `{{name: {items[0].name}, ...}}`.",
        "Below an option's name stand the kind of its value and its default.",
        "",
    ]
    if kind == "aggregators":
        lines += [
            "Backwards: backward passes for each step; K is the number of losses of paths (or layers).",
            "",
        ]
    if kind == "paths":
        lines += [
            "Weight: the static weight that its source uses, `weight: published`; the default is 1.",
            "",
        ]
    lines += [*table_of(kind, items), ""]
    return "\n".join([*lines, *(line for item in items for line in component(kind, item))])


def table_of(kind: str, items: Iterable[Item]) -> list[str]:
    more = {"paths": ["weight"], "aggregators": ["backwards"]}.get(kind, [])
    lines = table(["name", *more, "what it is", "source"])
    for item in items:
        middle = {"paths": [f"{float(item.weight):g}"], "aggregators": [item.cost]}.get(kind, [])
        first = (
            re.split(r"[:;,.] ", f"{item.summary} ".replace(":math:", "\0"))[0]
            .replace("\0", ":math:")
            .rstrip(" .:")
        )
        lines.append(row([f"[`{item.name}`](#{item.name})", *middle, first, item.source]))
    return lines


def component(kind: str, item: Item) -> list[str]:
    """The section of one component."""
    facts = [f"Source: {item.source}."] if item.source else []
    facts += [f"Tasks: {', '.join(item.tasks)}."] if item.tasks else []
    facts += [f"Published weight: {float(item.weight):g}."] if kind == "paths" else []
    facts += [f"Backwards for each step: {item.cost}."] if kind == "aggregators" else []
    doc = re.sub(r"^(Raises):\n +", r"**\1** ", item.doc, flags=re.MULTILINE)
    lines = [f"## {item.name}", "", " ".join(facts), "", doc, ""]
    if item.options:
        lines += table(["option", "what it does"])
        for option in item.options:
            value = f"{code(option.kind)}<br>{code(option.default)}"
            lines.append(row([f"`{option.name}`<br>{value}", option.help]))
    return [*lines, ""]


def table(heads: list[str]) -> list[str]:
    return [row(heads), row(["---"] * len(heads))]


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def code(text: str) -> str:
    return f"<code>{text.replace('&', '&amp;').replace('<', '&lt;').replace('|', '&#124;')}</code>"


def python_page() -> str:
    names = [f"ray_kd.{name}" for name in ray_kd.__all__ if not name.startswith("_")]
    names += ["ray_kd.export.export_run", "ray_kd.export.Exported"]
    names += ["ray_kd.tracking.wandb.make_tracker", "ray_kd.training.run_context.local_context"]
    head = (
        "# Python\n\nThe public names of `ray_kd`, and those that the pages import besides. "
        "[In your own loop](../python.md) shows them at work."
    )
    return "\n\n".join([head, *(f"::: {name}" for name in names)])


def plugin_page() -> str:
    """The names of ray_kd.plugin under the headings that the comments in its ``__all__`` are."""
    text = Path(str(plugin.__file__)).read_text(encoding="utf-8").split("__all__ = [")[1].split("]")[0]
    parts = [
        "# For extensions: `ray_kd.plugin`",
        "The one module that an extension imports. [Extending](../extending.md) shows a path, an aggregator, "
        "a dataset and a model that are made of it.",
    ]
    for line in text.splitlines():
        comment = re.match(r" *# (.*)", line)
        if comment:
            parts.append(f"## {comment[1][0].upper()}{comment[1][1:]}")
        for name in re.findall(r'"(\w+)"', line):
            parts.append(plugin_part(name, getattr(plugin, name)))
    parts += ["## Every decorator", f"::: {REGISTER}\n    options:\n      heading_level: 3"]
    return "\n\n".join(parts)


def plugin_part(name: str, value: Any) -> str:
    """The section of one name: its docstring, or where it comes from."""
    if getattr(value, "__qualname__", "") == "Registry.register":
        return f"### {name}\n\nDecorator of a class, as [`register`][{REGISTER}] below."
    home = getattr(value, "__module__", "ray_kd").split(".")[0]
    if home not in ("ray_kd", "builtins"):
        return f"### {name}\n\n`{home}.{name}`, as {home} documents it."
    return f"::: ray_kd.plugin.{name}\n    options:\n      heading_level: 3"


# Formulas


class Formulas(Extension):
    """``:math:`` roles and ``.. math::`` blocks of docstrings, in TeX, become MathML."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(FormulaBlocks(md), "formula_blocks", 27)
        md.inlinePatterns.register(Formula(r":math:`([^`]+)`", md), "formula", 200)


class FormulaBlocks(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        def block(match: re.Match[str]) -> str:
            return (
                "\n"
                + self.md.htmlStash.store(f'<div class="formula">{mathml(match[2], "block")}</div>')
                + "\n"
            )

        text = re.sub(r"^( *)\.\. math:: (.*(?:\n\1 +\S.*)*)", block, "\n".join(lines), flags=re.MULTILINE)
        return text.split("\n")


class Formula(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:  # type: ignore[override]
        return self.md.htmlStash.store(mathml(m[1])), m.start(0), m.end(0)


def mathml(tex: str, display: str = "inline") -> str:
    """MathML of a formula.

    Raises:
        PluginError: a command of TeX that the converter does not know.
    """
    found = convert(" ".join(tex.split()), display=display)
    unknown = re.search(r">(\\\w+)<", found)
    if unknown:
        raise PluginError(f"the converter to MathML does not know {unknown[1]}: {tex}")
    return found
