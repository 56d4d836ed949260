"""What the site of docs/ has beside its Markdown files; mkdocs.yml names this module.

- Pages that ray-kd writes itself (reference_pages.py), and formulas (formulas.py).
- The notebook, CONTRIBUTING.md and CHANGELOG.md as pages, and a page for every file outside docs/ that a page
  links to: on the repository's web page the link opens that file, on the site this page.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

sys.path.insert(0, str(Path(__file__).parents[2]))  # mkdocs looks in no folder of the repository

from docs.site.formulas import Formulas
from docs.site.reference_pages import reference_pages

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site that are files of the repository's root."""
MOVED = {"README.md": "index.md", **{path: uri for uri, path in ROOT_PAGES.items()}}
"""The page that stands for a file of the root."""
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```")
Content = str | bytes


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Formulas are read on every page, docstrings included."""
    config.markdown_extensions.append(Formulas())
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    for uri, content in [*reference_pages(), *notebooks(), *of_the_root()]:
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
        written = [f"[{Path(uri).stem}]({uri})" for uri, _ in reference_pages()]
        markdown = markdown.replace("pages of the site", f"the pages {', '.join(written)}")
    if page.file.src_uri.startswith("files/"):
        page.meta.update(hide=["navigation", "toc"], search={"boost": 0.5})
    return "".join(
        part if FENCE.match(part) else spaced(relinked(part, page.file.src_uri)) for part in blocks(markdown)
    )


# Links


def place(uri: str) -> str:
    """The path in the repository that a page of the site stands for."""
    return ROOT_PAGES.get(uri, f"docs/{uri}")


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
    for uri, path in ROOT_PAGES.items():
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
