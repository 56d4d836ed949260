"""Formulas of docstrings as MathML, which browsers show without a script."""

from __future__ import annotations

import re

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.exceptions import PluginError


class Formulas(Extension):
    """``:math:`` roles and ``.. math::`` blocks of docstrings, in TeX, become MathML."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(FormulaBlocks(md), "formula_blocks", 27)
        md.inlinePatterns.register(Formula(r":math:`([^`]+)`", md), "formula", 200)


class FormulaBlocks(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        def block(match: re.Match[str]) -> str:
            formula = f'<div class="formula">{mathml(match[2], "block")}</div>'
            return f"\n{self.md.htmlStash.store(formula)}\n"

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
