"""The notes below a comparison's table: what a reader must know of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from ray_kd.analysis.chance import chance_notes
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.contenders import contender_notes
from ray_kd.analysis.convergence import Converged, Doubling
from ray_kd.analysis.headline import counted, first_lines, margin_text, names_of, number, quoted, with_versus
from ray_kd.analysis.verdicts import Versus
from ray_kd.config.ending import NOT_ENDED, Ending
from ray_kd.statistics.looks import HOPELESS, Verdict

NOT_NEEDED = Ending.NOT_NEEDED.value


def notes(comparison: Comparison, left_out: Collection[str] = ()) -> list[str]:
    """What a reader of the table must know, one sentence or two each.

    Args:
        left_out: columns that this table does without (last, agree, p, time); nothing is said of them.
    """
    title = comparison.metric.title
    last = {"last": f"last: test {title} of the last weights."}
    rest = {
        "agree": f"agree: {comparison.metric.agreement}.",
        "time": "time: training seconds of one trial, mean.",
        "n": "n: trials that count.",
    }
    lines = [
        " ".join(
            [
                f"best: test {title} of the weights that were best on validation, the primary metric; mean ± "
                "half-width of its own 95 % t-interval over seeds, which describes the strategy and decides "
                "nothing.",
                *_of_columns(last, left_out),
                "Test data were read once, at the end of a trial.",
            ]
        ),
        *_rule_notes(comparison, left_out),
        *contender_notes(comparison),
        " ".join(_of_columns(rest, left_out)),
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


def _of_columns(texts: Mapping[str, str], left_out: Collection[str]) -> list[str]:
    """The sentences on those columns that the table has."""
    return [text for column, text in texts.items() if column not in left_out]


def _rule_notes(comparison: Comparison, left_out: Collection[str]) -> list[str]:
    """How verdicts come about, and what a reader must know of single ones."""
    baseline = comparison.baseline
    if comparison.plan.baseline is None:
        return ["No verdicts: the sweep names no baseline."]
    if baseline is None:
        return [f"No verdicts: the baseline “{comparison.plan.baseline}” has no finished trial."]
    cells = comparison.compared
    if not cells:
        return ["No verdicts: there is no strategy beside the baseline."]
    p = {"p": "p: the smallest error of all these intervals together at which this one excludes 0."}
    text = " ".join(
        [
            f"difference: to “{baseline.name}” on the same seeds, with the interval that carries the "
            "verdict. better, worse: the interval excludes 0. open: it includes 0. look: the number of "
            "seeds at which the verdict fell, or of the last look so far; without one, the mean only "
            "describes.",
            *_of_columns(p, left_out),
            "Strategies are compared with the baseline, not with each other.",
        ]
    )
    searched = [cell for cell in comparison.cells if cell.searched and comparison.is_reference(cell)]
    if searched:
        text += f" What a search chose is compared with {names_of(searched)}."
    families = {id(versus.family): versus for _, versus in with_versus(cells)}
    return [text, *(_family_note(comparison, one) for one in families.values()), *_odd_notes(comparison)]


def _family_note(comparison: Comparison, versus: Versus) -> str:
    """How sure the intervals of one family are, by one of its strategies."""
    looks, seeds = versus.looks, ", ".join(map(str, versus.looks.at))
    at = f"{'the look' if len(looks.at) == 1 else 'the looks'} at {seeds} seeds"
    whose = f"all {counted(looks.strategies, 'strategy')}" if looks.strategies > 1 else "the strategy"
    if versus.later:
        whose = f"what was declared later ({quoted(versus.family.cells)}), with an error of 5 % of its own,"
    levels = ", ".join(f"{100 * (1 - looks.error(n)):.2f}" for n in looks.at)
    text = f"The intervals of {whose} at {at} hold together at 95 %, each by itself at {levels} %."
    if looks.margin is not None:
        text += f" the same: the interval lies within ±{margin_text(comparison, looks)}."
    sizing = versus.family.sizing
    if sizing is not None and sizing.spread:
        whose = "other seeds of these cells" if sizing.earlier else f"the first {sizing.pilot} seeds"
        unit = "" if versus.family.unit == 1 else " points"
        text += f" The looks were chosen from the spread of {sizing.spread:.3g}{unit} that {whose} showed."
    elif sizing is not None and sizing.spread is None:
        text += f" Its spread will set the looks after it, of up to {sizing.most} seeds."
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
    lines = first_lines(lines, "strategies have no verdict for the same reason")
    constant = [cell for cell, versus in pairs if versus.judged.constant]
    if constant:
        lines.append(
            f"{names_of(constant)}: the difference is the same on every seed, so it has no spread to judge "
            "by; the verdict is open."
        )
    hopeless = [cell for cell, versus in pairs if versus.judged.hopeless]
    if hopeless:
        lines.append(
            f"{names_of(hopeless)}: stopped as open, since the chance of a verdict at the last look was "
            f"below {100 * HOPELESS:.0f} %."
        )
    skewed = [cell for cell, versus in pairs if versus.judged.skewed]
    if skewed:
        lines.append(
            f"{names_of(skewed)}: the differences are skewed; with few seeds such intervals may be too short."
        )
    beyond = [cell for cell, versus in pairs if set(cell.seeds) - set(versus.family.seeds)]
    if beyond:
        lines.append(f"{names_of(beyond)}: seeds beyond the last look enter the means and no verdict.")
    return lines


def _teacher_note(comparison: Comparison) -> list[str]:
    """A sentence on each teacher; where seeds have teachers of their own, on all of them."""
    unit, found = " %" if comparison.metric.rate else "", dict[tuple[str, str], list[float]]()
    for teacher in comparison.teachers:
        found.setdefault((teacher.name, teacher.model), []).append(teacher.value)
    several_names = len({name for name, _ in found}) > 1
    lines = []
    for (name, model), values in found.items():
        figures = [
            number(comparison, value) for value in (sum(values) / len(values), min(values), max(values))
        ]
        mean, least, most = figures
        named = f" “{name}”" if several_names and name else ""
        text = f"Teacher{named} ({model}): {mean}{unit} test {comparison.metric.title}"
        several = f", mean of {len(values)} runs between {least} and {most}" if len(values) > 1 else ""
        lines.append(f"{text}{several}.")
    return lines


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
    lines = first_lines(lines, "strategies lack trials; table.csv counts them")
    if comparison.later:
        lines.append(f"Not in the table, since they have no trials yet: {quoted(comparison.later)}.")
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
        f"{counted(comparison.searched, 'search trial')} chose settings on validation data; they do not "
        "count here."
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
        f"{counted(doubling.gain.n, 'seed')}; {verdict}."
    )
