"""A comparison in words: the headline above its table, and the notes below."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ray_kd.analysis.chance import chance_notes
from ray_kd.analysis.comparison import Cell, Comparison
from ray_kd.analysis.convergence import Converged, Doubling
from ray_kd.analysis.verdicts import Versus
from ray_kd.config.ending import NOT_ENDED, Ending
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import HOPELESS, Looks, Verdict

NAMED = 12
"""Names that a sentence lists; of more, it says how many."""
NOT_NEEDED = Ending.NOT_NEEDED.value
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
    looks = " or ".join(_count(first, "seed") for first in firsts)
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
    """The names, of many the first; empty for none."""
    if not cells:
        return ""
    shown = _names(cells[:NAMED])
    return f": {shown}" + (f" and {len(cells) - NAMED} more" if len(cells) > NAMED else "")


def _limits(comparison: Comparison) -> list[str]:
    planned = sum(cell.needed for cell in comparison.cells)
    waiting = sum(cell.statuses.get(s, 0) for cell in comparison.cells for s in NOT_ENDED)
    to_come = [(cell, versus) for cell, versus in with_versus(comparison.compared) if versus.next_looks]
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


def notes(comparison: Comparison) -> list[str]:
    """What a reader of the table must know, one sentence or two each."""
    title = comparison.metric.title
    lines = [
        f"best: test {title} of the weights that were best on validation, the primary metric; mean ± "
        "half-width of its own 95 % t-interval over seeds, which describes the strategy and decides nothing. "
        f"last: test {title} of the last weights. Test data were read once, at the end of a trial, for both.",
        *_rule_notes(comparison),
        f"agree: {comparison.metric.agreement}. "
        "time: training seconds of one trial, mean. n: trials that count.",
        *_teacher_note(comparison),
        *_status_notes(comparison),
        *comparison.damage,
        *_precision_note(comparison),
        *_search_note(comparison),
        *convergence_notes(comparison),
        *chance_notes(comparison),
        *comparison.plan.notes,
    ]
    return lines


def _rule_notes(comparison: Comparison) -> list[str]:
    """How verdicts come about, and what a reader must know of single ones."""
    baseline = comparison.baseline
    if comparison.plan.baseline is None:
        return ["No verdicts: the sweep names no baseline."]
    if baseline is None:
        return [f"No verdicts: the baseline “{comparison.plan.baseline}” has no finished trial."]
    cells = comparison.compared
    if not cells:
        return ["No verdicts: there is no strategy beside the baseline."]
    text = (
        f"difference: to “{baseline.name}” on the same seeds, with the interval that carries the verdict. "
        "better, worse: the interval excludes 0. open: it includes 0. look: the number of seeds at which "
        "the verdict fell, or of the last look so far; without one, the mean only describes. p: the "
        "smallest error of all these intervals together at which this one excludes 0. Strategies are "
        "compared with the baseline, not with each other."
    )
    searched = [cell for cell in comparison.cells if cell.searched and comparison.is_reference(cell)]
    if searched:
        text += f" What a search chose is compared with {_names(searched)}."
    families = {id(versus.family): versus for _, versus in with_versus(cells)}
    return [text, *(_family_note(comparison, one) for one in families.values()), *_odd_notes(comparison)]


def _family_note(comparison: Comparison, versus: Versus) -> str:
    """How sure the intervals of one family are, by one of its strategies."""
    looks, seeds = versus.looks, ", ".join(map(str, versus.looks.at))
    at = f"{'the look' if len(looks.at) == 1 else 'the looks'} at {seeds} seeds"
    whose = f"all {_count(looks.strategies, 'strategy')}" if looks.strategies > 1 else "the strategy"
    if versus.later:
        whose = f"what was declared later ({_quoted(versus.family.cells)}), with an error of 5 % of its own,"
    levels = ", ".join(f"{100 * (1 - looks.error(n)):.2f}" for n in looks.at)
    text = f"The intervals of {whose} at {at} hold together at 95 %, each by itself at {levels} %."
    if looks.margin is not None:
        text += f" the same: the interval lies within ±{margin_text(comparison, looks)}."
    return text


def _odd_notes(comparison: Comparison) -> list[str]:
    """A note on each kind of strategy whose verdict needs one."""
    lines, pairs = [], with_versus(comparison.compared)
    for cell, versus in pairs:
        if versus.verdict is Verdict.NONE:
            look, lost = versus.judged.look, versus.judged.lost
            lines.append(
                f"“{cell.name}” has no verdict: on {lost} of the {look} seeds of the look "
                f"({100 * lost / look:.0f} %) its trial or that of “{versus.reference}” has no result, and "
                "the seeds that are left may be a selection."
            )
    constant = [cell for cell, versus in pairs if versus.judged.constant]
    if constant:
        lines.append(
            f"{_names(constant)}: the difference is the same on every seed, so it has no spread to judge by; "
            "the verdict is open."
        )
    hopeless = [cell for cell, versus in pairs if versus.judged.hopeless]
    if hopeless:
        lines.append(
            f"{_names(hopeless)}: stopped as open, since the chance of a verdict at the last look was below "
            f"{100 * HOPELESS:.0f} %."
        )
    skewed = [cell for cell, versus in pairs if versus.judged.skewed]
    if skewed:
        lines.append(
            f"{_names(skewed)}: the differences are skewed; with few seeds such intervals may be too short."
        )
    beyond = [cell for cell, versus in pairs if set(cell.seeds) - set(versus.family.seeds)]
    if beyond:
        lines.append(f"{_names(beyond)}: seeds beyond the last look enter the means and no verdict.")
    return lines


def _teacher_note(comparison: Comparison) -> list[str]:
    unit = " %" if comparison.metric.rate else ""
    return [
        f"Teacher ({model}): {number(comparison, value)}{unit} test {comparison.metric.title}."
        for model, value in comparison.teachers
    ]


def _status_notes(comparison: Comparison) -> list[str]:
    lines = []
    for cell in comparison.cells:
        settled = cell.versus is not None and cell.versus.judged.settled
        uncounted = ("finished", NOT_NEEDED, *(NOT_ENDED if settled else ()))
        left = {status: count for status, count in sorted(cell.statuses.items()) if status not in uncounted}
        unmeasured = cell.statuses.get("finished", 0) - cell.n
        if unmeasured > 0:
            left["finished without this metric, or sharing a seed"] = unmeasured
        if left:
            parts = ", ".join(f"{count} {status}" for status, count in left.items())
            lines.append(f"{cell.name}: {cell.n} of {cell.needed} trials count; {parts}.")
    if comparison.later:
        names = ", ".join(f"“{name}”" for name in comparison.later)
        lines.append(f"Not in the table, since they have no trials yet: {names}.")
    return lines


def _precision_note(comparison: Comparison) -> list[str]:
    if len(comparison.precisions) < 2:
        return []
    parts = ", ".join(f"{count} in {name}" for name, count in sorted(comparison.precisions.items()))
    return [
        f"Trials ran in different precisions ({parts}): training.precision 'auto' depends on the device. Set "
        "one precision to make trials comparable."
    ]


def _search_note(comparison: Comparison) -> list[str]:
    if not comparison.searched:
        return []
    return [
        f"{_count(comparison.searched, 'search trial')} chose settings on validation data; they do not count "
        "here."
    ]


def convergence_notes(comparison: Comparison) -> list[str]:
    """A sentence on each control cell, or one that says that there is none."""
    if not comparison.metric.rate:
        return []
    if not comparison.doublings:
        return ["Convergence was not checked: the sweep has no control trials with twice the epochs."]
    return [_doubling_note(comparison, doubling) for doubling in comparison.doublings]


def _doubling_note(comparison: Comparison, doubling: Doubling) -> str:
    if not doubling.gain.n:
        return f"Convergence is not known yet: no trial of “{doubling.control}” has finished."
    spread = doubling.gain.half_width
    bounds = "" if math.isnan(spread) else f" ± {number(comparison, spread)}"
    epochs = f" ({doubling.epochs} → {doubling.control_epochs} epochs)" if doubling.epochs else ""
    verdict = {
        Converged.YES: "the interval lies under 0.5 points: converged",
        Converged.NO: "the interval lies above 0.5 points: NOT converged",
        Converged.OPEN: "whether that is more than 0.5 points, these seeds cannot tell",
    }[doubling.converged]
    return (
        f"Convergence: “{doubling.control}”{epochs} changes validation {comparison.metric.title} of "
        f"“{doubling.cell}” by {number(comparison, doubling.gain.mean, sign=True)}{bounds} points over "
        f"{_count(doubling.gain.n, 'seed')}; {verdict}."
    )


def _names(cells: Iterable[Cell]) -> str:
    return _quoted(cell.name for cell in cells)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
