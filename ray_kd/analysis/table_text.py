"""The parts that every table has as text: Markdown and CSV."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pandas as pd

from ray_kd.config import names


def pipes(entries: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(entries)} |"


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], bold: Collection[str] = ()
) -> list[str]:
    """The lines of a Markdown table: names at the left, numbers at the right.

    Args:
        headings: a line feed divides a heading from its unit.
        bold: entries beside the first of a row that are printed bold.
    """
    lines = [pipes("<br>".join(map(names.markdown, head.strip().split("\n"))) for head in headings)]
    lines.append(pipes(["---", *["---:"] * (len(headings) - 1)]))
    for first, *given in rows:
        entries = [names.markdown(entry) for entry in given]
        lines.append(pipes([names.markdown(first), *(f"**{e}**" if e in bold else e for e in entries)]))
    return lines


def markdown_list(notes: Iterable[str]) -> list[str]:
    """The lines of a Markdown list, with an empty one before and after."""
    return ["", *(f"- {names.markdown(note)}" for note in notes), ""]


def answer_text(
    findings: Iterable[str], headings: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]
) -> str:
    """What was found, the table, and notes on it, as Markdown."""
    lines = [*markdown_list(findings), *markdown_table(headings, rows), *markdown_list(notes)]
    return "\n".join(lines).lstrip()


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file with numbers at full precision; nan is empty."""
    values = [[names.csv_text(value) for value in row] for row in rows]
    return pd.DataFrame(values, columns=list(columns), dtype=object).to_csv(index=False, lineterminator="\n")
