"""A comparison in words: the headline above its table, and how figures are printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ray_kd.analysis.comparison import Cell, Comparison
from ray_kd.analysis.convergence import Converged
from ray_kd.analysis.verdicts import Versus
from ray_kd.config.ending import NOT_ENDED
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Looks, Verdict

NAMED = 12
"""Names that a sentence lists; of more, it says how many."""
DASH = "\N{EN DASH}"
"""Printed where there is no value."""


def headline(comparison: Comparison) -> str:
    """One paragraph: the verdict on each strategy beside its reference, and what limits the result."""
    return " ".join([*_verdicts(comparison), *_limits(comparison)])


def number(comparison: Comparison, value: float, sign: bool = False) -> str:
    """A figure of the compared metric as printed, without its unit; an en dash for nan."""
    if math.isnan(value):
        return DASH
    text = f"{value * comparison.metric.scale:{'+' if sign else ''}.{comparison.metric.digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def with_bounds(comparison: Comparison, shown: Interval) -> str:
    """A difference of the compared metric as printed, with its interval where there is one."""
    if math.isnan(shown.low):
        return number(comparison, shown.mean, sign=True)
    low, high = (number(comparison, bound, sign=True) for bound in (shown.low, shown.high))
    return f"{number(comparison, shown.mean, sign=True)} [{low}, {high}]"


def option_text(value: object) -> str:
    """An option's value in a sentence: no brackets, no quotes, no None."""
    if isinstance(value, (list, tuple)):
        return "/".join(map(option_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {option_text(entry)}" for key, entry in value.items()) or "none"
    if value is None:
        return "none"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def p_value(p: float) -> str:
    """A p-value as printed."""
    if math.isnan(p):
        return DASH
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def look_text(versus: Versus) -> str:
    """The number of seeds of the look that a verdict is from; an en dash before the first."""
    return str(versus.judged.look or DASH)


def margin_text(comparison: Comparison, looks: Looks) -> str:
    """The margin of the verdict "the same", with its unit."""
    size = (looks.margin or 0.0) * comparison.metric.scale
    return f"{size:g}{'' if not comparison.metric.rate else ' point' if size == 1 else ' points'}"


def _verdicts(comparison: Comparison) -> list[str]:
    if not comparison.started:
        return ["No result yet: no trial has finished."]
    if comparison.baseline is None:
        wanted = comparison.plan.baseline
        why = f"“{wanted}” has no finished trial" if wanted else "the sweep names no baseline"
        return [f"No strategy was compared with another, since {why}."]
    if not any(cell.n for cell in comparison.compared):
        return [f"Only “{comparison.baseline.name}” has finished trials so far: no strategy was compared."]
    sentences = []
    for name, cells in _by_reference(comparison.compared).items():
        sentences += _beside(comparison, name, cells)
    return sentences


def _beside(comparison: Comparison, reference: str, cells: list[Cell]) -> list[str]:
    """The sentences on the strategies that share a reference."""
    found: dict[Verdict, list[Cell]] = {verdict: [] for verdict in Verdict}
    for cell, versus in with_versus(cells):
        found[versus.verdict].append(cell)
    early = [cell for cell, versus in with_versus(found[Verdict.OPEN]) if not versus.judged.look]
    if len(early) == len(cells):
        return [f"No verdict yet beside “{reference}”: {_first_look(comparison, cells)}"]
    margins = dict.fromkeys(
        margin_text(comparison, versus.looks) for _, versus in with_versus(found[Verdict.SAME])
    )
    kinds = {
        Verdict.BETTER: "better",
        Verdict.WORSE: "worse",
        Verdict.SAME: f"the same within {' or '.join(margins)}",
        Verdict.OPEN: "open",
        Verdict.NONE: "without a verdict, since seeds were lost to failures",
    }
    if len(cells) == 1:
        ((verdict, (cell,)),) = [(verdict, listed) for verdict, listed in found.items() if listed]
        return [f"Beside “{reference}”, “{cell.name}” is {kinds[verdict]}."]
    better = found[Verdict.BETTER]
    lead = f"{len(better) or 'None'} of {len(cells)} strategies"
    shown = "are" if len(better) > 1 else "is" if better else "is shown to be"
    sentences = [f"{lead} {shown} better than “{reference}”{_listed(better)}."]
    for verdict, words in kinds.items():
        if found[verdict] and verdict is not Verdict.BETTER:
            one = "is" if len(found[verdict]) == 1 else "are"
            sentences.append(f"{len(found[verdict])} {one} {words}{_listed(found[verdict])}.")
    return sentences


def _first_look(comparison: Comparison, cells: list[Cell]) -> str:
    firsts = sorted({versus.looks.at[0] for _, versus in with_versus(cells)})
    looks = " or ".join(counted(first, "seed") for first in firsts)
    return (
        f"the first look is taken when all trials of {looks} have ended. Until then the means only describe."
    )


def with_versus(cells: Iterable[Cell]) -> list[tuple[Cell, Versus]]:
    """Those cells that are compared with a reference, each beside what was found."""
    return [(cell, cell.versus) for cell in cells if cell.versus is not None]


def _by_reference(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Cells by the name of the cell that each was compared with."""
    grouped: dict[str, list[Cell]] = {}
    for cell, versus in with_versus(cells):
        grouped.setdefault(versus.reference, []).append(cell)
    return grouped


def _listed(cells: list[Cell]) -> str:
    """The names, after a colon; empty for none."""
    return f": {names_of(cells)}" if cells else ""


def _limits(comparison: Comparison) -> list[str]:
    planned = sum(cell.needed for cell in comparison.cells)
    settled = {cell.name for cell, versus in with_versus(comparison.compared) if versus.judged.settled}
    asked = [cell for cell in comparison.cells if cell.name not in settled]  # the others need no more seeds
    waiting = sum(cell.statuses.get(state, 0) for cell in asked for state in NOT_ENDED)
    to_come = [(cell, versus) for cell, versus in with_versus(comparison.compared) if versus.waits]
    sentences = []
    if comparison.started and waiting and (to_come or not comparison.compared):
        sentences.append(f"This is preliminary: {waiting} of {planned} trials have not ended.")
    elif comparison.later and comparison.started:
        sentences.append("This is preliminary: some strategies have no trials yet.")
    if comparison.metric.rate and any(
        doubling.converged is Converged.NO for doubling in comparison.doublings
    ):
        sentences.append(
            "Training was too short to converge (see the notes): longer runs may rank differently."
        )
    return sentences


def names_of(cells: Sequence[Cell]) -> str:
    """The names; of many the first, and how many more there are."""
    more = f" and {len(cells) - NAMED} more" if len(cells) > NAMED else ""
    return quoted(cell.name for cell in cells[:NAMED]) + more


def first_lines(lines: list[str], what: str) -> list[str]:
    """Lines of which there is one for each cell; of many the first, and how many more there are."""
    return lines if len(lines) <= NAMED else [*lines[:NAMED], f"{len(lines) - NAMED:,} more {what}."]


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def joined(names: Sequence[str]) -> str:
    """``a, b and c``; empty for none."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def counted(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
