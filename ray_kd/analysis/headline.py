"""A comparison in words: the headline above its table, and the notes below."""

from __future__ import annotations

import math

from ray_kd.analysis.chance import chance_notes
from ray_kd.analysis.comparison import Cell, Comparison
from ray_kd.analysis.convergence import Converged, Doubling
from ray_kd.config.ending import NOT_ENDED
from ray_kd.statistics.intervals import Paired

DASH = "\N{EN DASH}"
"""Printed where there is no value."""


def headline(comparison: Comparison) -> str:
    """One paragraph: which strategy was best, whether that is significant, and what limits the result."""
    return " ".join([_best(comparison), *_others(comparison), *_limits(comparison)])


def number(comparison: Comparison, value: float, sign: bool = False) -> str:
    """A figure of the compared metric as printed, without its unit; an en dash for nan."""
    if math.isnan(value):
        return DASH
    text = f"{value * comparison.metric.scale:{'+' if sign else ''}.{comparison.metric.digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


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


def _best(comparison: Comparison) -> str:
    metric, best, baseline = comparison.metric, comparison.best, comparison.baseline
    if best is not None and baseline is not None:
        baseline = comparison.reference_of(best)
    if best is None:
        return "No result yet: no trial has finished."
    figure = f"{number(comparison, best.best.mean)}{' %' if metric.rate else ''} test {metric.title}"
    lead = f"“{best.name}” had the best mean, {figure} over {_seeds(best)}"
    if baseline is None:
        wanted = comparison.plan.baseline
        why = f"“{wanted}” has no finished trial" if wanted else "the sweep names no baseline"
        return f"{lead}; nothing was tested, since {why}."
    if best is baseline and all(cell is best or not cell.n for cell in comparison.cells):
        return f"Only “{baseline.name}” has finished trials so far: {figure} over {_seeds(best)}."
    if best is baseline:
        return f"No strategy had a better mean than “{baseline.name}”: {figure} over {_seeds(best)}."
    assert best.versus is not None
    lead += f", {_distance(comparison, best.versus)} “{baseline.name}”"
    if math.isnan(best.versus.p):
        return f"{lead}; that cannot be tested with {_pairs(best.versus)}."
    if best.versus.significant:
        return f"{lead}: a significant difference (Holm-corrected p {_p(best.versus.holm)})."
    return (
        f"{lead}. The difference is not significant (Holm-corrected p {_p(best.versus.holm)}): "
        "these trials do not show that it is better."
    )


def _others(comparison: Comparison) -> list[str]:
    """Sentences on the other strategies that differ significantly, or on none that does."""
    if comparison.baseline is None or comparison.tests == 0:
        return []
    others = [cell for cell in comparison.cells if cell is not comparison.best and _significant(cell)]
    above = [cell for cell in others if cell.versus and _is_better(comparison, cell.versus)]
    below = [cell for cell in others if cell not in above]
    best = comparison.best if comparison.best and _significant(comparison.best) else None
    sentences = []
    for name, cells in _by_reference(above).items():
        also = "Also significantly" if best and best.reference == name else "Significantly"
        sentences.append(f"{also} better than “{name}”: {_names(cells)}.")
    for name, cells in _by_reference(below).items():
        sentences.append(f"Significantly worse than “{name}”: {_names(cells)}.")
    if not others and not best:
        names = dict.fromkeys(cell.reference for cell in comparison.cells if cell.reference)
        listed = " or ".join(f"“{name}”" for name in names)
        sentences.append(f"No strategy differs significantly from {listed}.")
    return sentences


def _by_reference(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Cells by the name of the cell that each was tested against."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.reference or "", []).append(cell)
    return grouped


def _limits(comparison: Comparison) -> list[str]:
    planned = sum(cell.planned for cell in comparison.cells)
    waiting = sum(cell.statuses.get(s, 0) for cell in comparison.cells for s in NOT_ENDED)
    sentences = []
    if waiting and comparison.best is not None:
        sentences.append(f"This is preliminary: {waiting} of {planned} trials have not ended.")
    elif comparison.later and comparison.best is not None:
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
        f"half-width of its 95 % t-interval over seeds. last: test {title} of the last weights. Test data "
        "were read once, at the end of a trial, for both.",
        *_test_note(comparison),
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


def _test_note(comparison: Comparison) -> list[str]:
    baseline = comparison.baseline
    if comparison.plan.baseline is None:
        return ["No test: the sweep names no baseline."]
    if baseline is None:
        return [f"No test: the baseline “{comparison.plan.baseline}” has no finished trial."]
    count = comparison.tests
    if not count:
        return [f"No test: no strategy has two seeds in common with “{baseline.name}” yet."]
    lines = [
        f"difference: to “{baseline.name}” on the same seeds, ± half-width of its own 95 % t-interval (not "
        f"corrected). p: two-sided paired t-test with Holm's correction over {_count(count, 'comparison')}; "
        "* marks p < 0.05. Strategies are tested against the baseline, not against each other."
    ]
    searched = [cell for cell in comparison.cells if cell.searched and comparison.is_reference(cell)]
    if searched:
        lines[0] += f" What a search chose is tested against {_names(searched)}."
    constant = [cell for cell in comparison.cells if cell.versus and cell.versus.constant]
    if constant:
        lines.append(
            f"{_names(constant)}: the difference is the same on every seed, so a t-test is undefined; "
            "p is set to 1."
        )
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
        left = {status: count for status, count in sorted(cell.statuses.items()) if status != "finished"}
        unmeasured = cell.statuses.get("finished", 0) - cell.n
        if unmeasured > 0:
            left["finished without this metric, or sharing a seed"] = unmeasured
        if left:
            parts = ", ".join(f"{count} {status}" for status, count in left.items())
            lines.append(f"{cell.name}: {cell.n} of {cell.planned} trials count; {parts}.")
    if comparison.later:
        names = ", ".join(f"“{name}”" for name in comparison.later)
        lines.append(f"Not in the table, since they have no trials yet: {names}.")
    fewer: dict[str, list[Cell]] = {}
    for cell in comparison.cells:
        if cell.versus and cell.versus.difference.n < cell.n:
            fewer.setdefault(_pairs(cell.versus), []).append(cell)
    return lines + [f"Compared over {pairs} only: {_names(cells)}." for pairs, cells in fewer.items()]


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


def _significant(cell: Cell) -> bool:
    return cell.versus is not None and cell.versus.significant


def _is_better(comparison: Comparison, versus: Paired) -> bool:
    return comparison.metric.better(versus.difference.mean, 0.0)


def _distance(comparison: Comparison, versus: Paired) -> str:
    difference = versus.difference
    side = "above" if difference.mean >= 0 else "below"
    unit = " points" if comparison.metric.rate else ""
    interval = ""
    if not math.isnan(difference.low):
        low, high = (number(comparison, bound, sign=True) for bound in (difference.low, difference.high))
        interval = f" (95 % CI {low} to {high})"
    return f"{number(comparison, abs(difference.mean))}{unit}{interval} {side}"


def _p(p: float) -> str:
    text = p_value(p)
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def _names(cells: list[Cell]) -> str:
    return ", ".join(f"“{cell.name}”" for cell in cells)


def _seeds(cell: Cell) -> str:
    return _count(cell.n, "seed")


def _pairs(versus: Paired) -> str:
    count = versus.difference.n
    return f"{'no' if count == 0 else count} common seed{'' if count == 1 else 's'}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
