"""A judgement in words and tables, as Markdown."""

from __future__ import annotations

import math

from ray_kd.analysis.arms import Arm
from ray_kd.analysis.comparison import Metric
from ray_kd.analysis.headline import DASH
from ray_kd.analysis.judgement import MARGIN, VERDICTS, WITNESS, Cost, Difference, Judgement, Truth
from ray_kd.analysis.shares import MEASUREMENTS, QUARTER
from ray_kd.analysis.stats import Interval
from ray_kd.config.names import markdown


def report(judgement: Judgement) -> str:
    """The judgement as Markdown: one sentence for each question, then its table."""
    sections = [
        f"# Judgement of `{judgement.strategy}`",
        "",
        *_contests(judgement),
        *_costs(judgement),
        *_truths(judgement),
        *_notes(judgement),
    ]
    return "\n".join(sections)


def sets(arm: Arm) -> tuple[str, str, str]:
    """Setting, clean paths and harmful paths of an arm, as printed."""
    clean = sorted(arm.clean)
    listed = " + ".join(clean) if len(clean) <= 3 else f"{len(clean)} paths"
    return arm.setting, listed or "none", " + ".join(sorted(arm.harmful)) or "none"


def points(value: float, sign: bool = True) -> str:
    """A rate as percentage points."""
    if not math.isfinite(value):
        return DASH
    return f"{100 * value:{'+' if sign else ''}.2f}".replace("-", "\N{MINUS SIGN}")


def _contests(judgement: Judgement) -> list[str]:
    counts = {
        verdict: sum(contest.difference.verdict == verdict for contest in judgement.contests)
        for verdict in VERDICTS
    }
    said = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items() if count)
    lines = [
        "## Is it worse than the best of the others?",
        "",
        f"Of {len(judgement.contests)} sets: {said or 'none was compared'}. The comparator is whatever is "
        f"best on validation; difference: test {Metric(judgement.metric).title} of "
        f"`{judgement.strategy}` minus the comparator's on the same seeds, in points, with its one-sided "
        f"95 % bounds. Non-inferior: the lower bound lies above {points(-MARGIN)}; inferior: the upper one "
        "lies below it.",
        "",
        *_head("setting", "paths", "harmful", "comparator", "of", "val", "val comparator"),
    ]
    lines[-2] = lines[-2] + " difference | lower | upper | seeds | verdict |"
    lines[-1] = lines[-1] + " ---: | ---: | ---: | ---: | --- |"
    for contest in judgement.contests:
        mine, other = contest.validation
        lines.append(
            _row(
                *sets(contest.arm),
                contest.comparator.strategy,
                str(len(contest.candidates)),
                f"{100 * mine:.2f}",
                f"{100 * other:.2f}",
                *_bounds(contest.difference.bounds),
                _verdict(contest.difference),
            )
        )
    return [*lines, ""]


def _costs(judgement: Judgement) -> list[str]:
    if not judgement.costs:
        return ["## What does a harmful path cost?", "", "The sweep has no cells with harmful paths.", ""]
    lines = [
        "## What does a harmful path cost?",
        "",
        f"Test {Metric(judgement.metric).title} with the harmful paths minus without them, same strategy and "
        "seeds, in points, with one-sided 95 % bounds and the same margin. A corruption counts as harmful "
        f"where it lowers `{WITNESS}` significantly (its upper bound lies below 0).",
        "",
        *_head("setting", "paths", "harmful", "counts as harmful", "strategy"),
    ]
    lines[-2] = lines[-2] + " with \N{MINUS SIGN} without | lower | upper | seeds | verdict |"
    lines[-1] = lines[-1] + " ---: | ---: | ---: | ---: | --- |"
    for cost in sorted(judgement.costs, key=lambda cost: _order(cost, judgement)):
        name = cost.arm.strategy
        lines.append(
            _row(
                *sets(cost.arm),
                _yes(judgement.cost_of(cost.arm)),
                f"**{markdown(name)}**" if name == judgement.strategy else name,
                *_bounds(cost.difference.bounds),
                _verdict(cost.difference),
            )
        )
    return [*lines, ""]


def _order(cost: Cost, judgement: Judgement) -> tuple[str, str, int, str, bool]:
    setting, clean, harmful = sets(cost.arm)
    return setting, clean, len(cost.arm.harmful), harmful, cost.arm.strategy != judgement.strategy


def _truths(judgement: Judgement) -> list[str]:
    counted = [truth for truth in judgement.truths if truth.holds is not None]
    off = [truth for truth in counted if truth.harmful]
    kept = [truth for truth in counted if not truth.harmful]
    lines = [
        "## Do its weights say the truth?",
        "",
        f"Harmful paths that count and are below 5 %: {sum(bool(t.holds) for t in off)} of {len(off)}. "
        "Clean paths that alone beat the student significantly and keep half of their equal share: "
        f"{sum(bool(t.holds) for t in kept)} of {len(kept)}. Share: w‖g‖ over the sum of all paths', mean "
        f"over the epochs after {QUARTER:.0%} of the training and at least {MEASUREMENTS} measurements, and "
        "over seeds; in %, with one-sided 95 % bounds.",
        "",
        *_head("setting", "paths", "harmful", "path", "is", "counts"),
    ]
    lines[-2] = lines[-2] + " share | lower | upper | worst seed | limit | from epoch | holds |"
    lines[-1] = lines[-1] + " ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    lines += [_truth_row(truth) for truth in judgement.truths]
    return [*lines, ""]


def _truth_row(truth: Truth) -> str:
    bounds, seeds = truth.share.bounds, truth.share.by_seed.values()
    worst = max(seeds, default=math.nan) if truth.harmful else min(seeds, default=math.nan)
    limit = f"{'<' if truth.harmful else '≥'} {100 * truth.limit:.1f}"
    return _row(
        *sets(truth.arm),
        truth.share.path,
        "harmful" if truth.harmful else "clean",
        _yes(truth.counts),
        *(
            DASH if math.isnan(value) else f"{100 * value:.1f}"
            for value in (bounds.mean, bounds.low, bounds.high, worst)
        ),
        limit,
        str(truth.share.first or DASH),
        DASH if truth.holds is None else ("yes" if truth.holds else "**no**"),
    )


def _notes(judgement: Judgement) -> list[str]:
    return ["## Notes", "", *(f"- {note}" for note in judgement.notes), ""] if judgement.notes else []


def _bounds(bounds: Interval) -> tuple[str, str, str, str]:
    return points(bounds.mean), points(bounds.low), points(bounds.high), str(bounds.n)


def _verdict(difference: Difference) -> str:
    verdict = difference.verdict
    return verdict if verdict == VERDICTS[0] else f"**{verdict}**"


def _yes(value: bool | None) -> str:
    return DASH if value is None else "yes" if value else "no"


def _head(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _row(*entries: str) -> str:
    shown = (entry if entry.startswith("**") else markdown(entry) for entry in entries)
    return "| " + " | ".join(shown) + " |"
