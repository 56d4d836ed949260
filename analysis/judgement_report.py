"""A judgement as Markdown: for each question a paragraph and a table."""

from __future__ import annotations

import math

from analysis.judgement import HARM_REFERENCE, MARGIN, VERDICTS, Cost, Difference, Judgement, ShareCheck
from analysis.path_shares import MEASUREMENTS, OFF, QUARTER
from analysis.strategies import Strategy
from ray_kd.analysis.comparison import Metric
from ray_kd.analysis.headline import DASH
from ray_kd.analysis.table_text import pipes
from ray_kd.config.names import markdown
from ray_kd.statistics.intervals import Interval


def report(judgement: Judgement) -> str:
    """The judgement as Markdown: for each question a paragraph, then its table."""
    sections = [
        f"# Judgement of `{judgement.strategy}`",
        "",
        *_contests(judgement),
        *_costs(judgement),
        *_checks(judgement),
        *_notes(judgement),
    ]
    return "\n".join(sections)


def sets(strategy: Strategy) -> tuple[str, str, str]:
    """Setting, clean paths and harmful paths of a strategy, as printed."""
    clean = sorted(strategy.clean)
    listed = " + ".join(clean) if len(clean) <= 3 else f"{len(clean)} paths"
    return strategy.setting, listed or "none", " + ".join(sorted(strategy.harmful)) or "none"


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
    counted = ", ".join(f"{verdict} in {count}" for verdict, count in counts.items() if count)
    lines = [
        "## Is it worse than the best of the others?",
        "",
        f"Of {len(judgement.contests)} sets: {counted or 'none was compared'}. The comparator is the "
        f"strategy that is best on validation; difference: test {Metric(judgement.metric).title} of "
        f"`{judgement.strategy}` minus the comparator's on the same seeds, in points, with its interval. "
        f"{_simultaneous(judgement)} Non-inferior: the interval lies above {points(-MARGIN)}; inferior: it "
        "lies below that; no verdict: seeds were lost to failures.",
        "",
        *_head("setting", "paths", "harmful", "comparator", "of", "val", "val comparator"),
    ]
    lines[-2] = lines[-2] + " difference | lower | upper | seeds | verdict |"
    lines[-1] = lines[-1] + " ---: | ---: | ---: | ---: | --- |"
    for contest in judgement.contests:
        mine, other = contest.validation
        lines.append(
            _row(
                *sets(contest.strategy),
                contest.comparator.name,
                str(len(contest.candidates)),
                f"{100 * mine:.2f}",
                f"{100 * other:.2f}",
                *_bounds(contest.difference.bounds),
                _verdict(contest.difference),
            )
        )
    return [*lines, ""]


def _simultaneous(judgement: Judgement) -> str:
    """How the intervals of a judgement hold."""
    looks = judgement.rule.looks
    at = f"look{'' if len(looks.at) == 1 else 's'} of {', '.join(map(str, looks.at))} seeds"
    levels = ", ".join(f"{100 * (1 - looks.error(n)):.2f}" for n in looks.at)
    return (
        f"All {looks.strategies} intervals of this judgement, at the {at}, hold together at 95 %, each by "
        f"itself at {levels} %."
    )


def _costs(judgement: Judgement) -> list[str]:
    if not judgement.costs:
        return ["## What does a harmful path cost?", "", "The sweep has no cells with harmful paths.", ""]
    lines = [
        "## What does a harmful path cost?",
        "",
        f"Test {Metric(judgement.metric).title} with the harmful paths minus without them, same strategy and "
        "seeds, in points, with the interval and the margin as above. A corruption counts as harmful where "
        f"`{HARM_REFERENCE}` is worse with it (the interval lies below 0).",
        "",
        *_head("setting", "paths", "harmful", "counts as harmful", "strategy"),
    ]
    lines[-2] = lines[-2] + " with \N{MINUS SIGN} without | lower | upper | seeds | verdict |"
    lines[-1] = lines[-1] + " ---: | ---: | ---: | ---: | --- |"
    for cost in sorted(judgement.costs, key=lambda cost: _order(cost, judgement)):
        name = cost.strategy.name
        lines.append(
            _row(
                *sets(cost.strategy),
                _yes(judgement.counts_as_harmful(cost.strategy)),
                f"**{markdown(name)}**" if name == judgement.strategy else name,
                *_bounds(cost.difference.bounds),
                _verdict(cost.difference),
            )
        )
    return [*lines, ""]


def _order(cost: Cost, judgement: Judgement) -> tuple[str, str, int, str, bool]:
    setting, clean, harmful = sets(cost.strategy)
    return setting, clean, len(cost.strategy.harmful), harmful, cost.strategy.name != judgement.strategy


def _checks(judgement: Judgement) -> list[str]:
    counted = [check for check in judgement.checks if check.holds is not None]
    off = [check for check in counted if check.harmful]
    kept = [check for check in counted if not check.harmful]
    lines = [
        "## Do its weights show which paths help?",
        "",
        f"Harmful paths that count and have a share below {OFF:.0%}: {_held(off)}. Clean paths that alone "
        "are better than the student alone, and that keep half of an equal share: "
        f"{_held(kept)}. Share: w‖g‖ over the sum of all paths', mean over the epochs after {QUARTER:.0%} of "
        f"the training and at least {MEASUREMENTS} measurements, and over seeds; in %, with one-sided 95 % "
        "bounds of its own, which only describe.",
        "",
        *_head("setting", "paths", "harmful", "path", "is", "counts"),
    ]
    lines[-2] = lines[-2] + " share | lower | upper | worst seed | limit | from epoch | holds |"
    lines[-1] = lines[-1] + " ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    lines += [_check_row(check) for check in judgement.checks]
    return [*lines, ""]


def _held(checks: list[ShareCheck]) -> str:
    return f"{sum(bool(check.holds) for check in checks)} of {len(checks)}"


def _check_row(check: ShareCheck) -> str:
    bounds, seeds = check.share.bounds, check.share.by_seed.values()
    worst = max(seeds, default=math.nan) if check.harmful else min(seeds, default=math.nan)
    limit = f"{'<' if check.harmful else '≥'} {100 * check.limit:.1f}"
    return _row(
        *sets(check.strategy),
        check.share.path,
        "harmful" if check.harmful else "clean",
        _yes(check.counts),
        *(
            DASH if math.isnan(value) else f"{100 * value:.1f}"
            for value in (bounds.mean, bounds.low, bounds.high, worst)
        ),
        limit,
        str(check.share.first or DASH),
        DASH if check.holds is None else ("yes" if check.holds else "**no**"),
    )


def _notes(judgement: Judgement) -> list[str]:
    notes = [f"- {markdown(note)}" for note in judgement.notes]
    return ["## Notes", "", *notes, ""] if notes else []


def _bounds(bounds: Interval) -> tuple[str, str, str, str]:
    return points(bounds.mean), points(bounds.low), points(bounds.high), str(bounds.n)


def _verdict(difference: Difference) -> str:
    verdict = difference.verdict
    return verdict if verdict == VERDICTS[0] else f"**{verdict}**"


def _yes(value: bool | None) -> str:
    return DASH if value is None else "yes" if value else "no"


def _head(*names: str) -> list[str]:
    return [_row(*names), pipes(["---"] * len(names))]


def _row(*entries: str) -> str:
    return pipes(entry if entry.startswith("**") else markdown(entry) for entry in entries)
