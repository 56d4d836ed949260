"""What the verdicts of ray_kd/statistics hold: thousands of synthetic sweeps whose truth is known.

    python -m benchmarks.coverage                        # 10,000 sweeps for each row, minutes on one core
    python -m benchmarks.coverage --sweeps 1000 --seed 7

Prints the tables of docs/statistics.md: false alarms and coverage, trials beside a fixed design of equal
power, what derived designs find, and how often skewness is noticed. Sweeps are judged by a vectorised form of
the rule; the first of each kind are judged by ``ray_kd.statistics.looks.judge`` too, and a verdict that
differs ends the run.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from benchmarks.synthetic import (
    BETTER,
    KINDS,
    OPEN,
    SAME,
    SPREAD,
    WORSE,
    Lost,
    Numbers,
    Outcome,
    bounds,
    decide,
    joined,
    random_loss,
    simulate,
    simulate_pilot,
    sweeps,
    worst_loss,
)
from ray_kd.statistics import power, skewness
from ray_kd.statistics.intervals import ALPHA
from ray_kd.statistics.looks import Looks

SIGNIFICANT = 0.01
"""One-sided error of the test of each row."""
LOOKS = (5, 10, 16, 25, 40)


def wrong(found: Outcome, effects: Numbers, margin: float | None) -> Lost:
    """Sweeps with at least one verdict that is not true."""
    better = (found.verdicts == BETTER) & (effects <= 0)
    worse = (found.verdicts == WORSE) & (effects >= 0)
    same = (found.verdicts == SAME) & (np.abs(effects) > (margin or 0.0))
    return np.asarray((better | worse | same).any(axis=1))


NOTHING, MANY = np.zeros(8), np.zeros(35)
DEMO = np.array([-60.0, -60.0, -2.5, *np.linspace(0, 2.3, 5)])
MIXED = np.array([-4.0, -2.0, -1.0, 0.0, 0.0, 1.0, 2.0, 4.0])
EDGE = np.full(8, 1.0001)
"""Just beyond the margin: each "the same" is wrong, each "worse" too."""


@dataclass(frozen=True)
class Row:
    """A way of looking at sweeps of one kind, and in how many of them something went wrong."""

    way: str
    kind: str
    strategies: int
    wrong: int
    uncovered: int
    count: int
    held: bool = True
    """Whether the rule is meant to hold there; else the row shows what it does not cover."""

    @property
    def bad(self) -> bool:
        """Whether either is significantly above 5 %."""
        most = float(stats.binom.isf(SIGNIFICANT, self.count, ALPHA))
        return max(self.wrong, self.uncovered) > most


def _row(
    way: str, kind: str, effects: Numbers, margin: float | None, found: Outcome, held: bool = True
) -> Row:
    failed, missed = wrong(found, effects, margin).sum(), (~found.covered.all(axis=1)).sum()
    return Row(way, kind, len(effects), int(failed), int(missed), len(found.verdicts), held)


def stopped_by_the_clock(found: Outcome, looks: Looks, generator: np.random.Generator) -> Outcome:
    """The same sweeps, each ended after a random look: later verdicts are open."""
    ends = generator.choice(looks.at, size=(len(found.stops), 1))
    return replace(found, verdicts=np.where(found.stops <= ends, found.verdicts, OPEN))


def false_alarms(count: int, generator: np.random.Generator) -> list[Row]:
    """Every way of looking that the product offers."""
    rows = []
    several = Looks(LOOKS, 8, 1.0)
    for kind in KINDS:
        for n in (5, 20):
            found = simulate(Looks((n,), 8, 1.0), kind, NOTHING, count, generator)
            rows.append(_row(f"one look, {n} seeds", kind, NOTHING, 1.0, found))
        found = simulate(several, kind, NOTHING, count, generator)
        rows.append(_row("looks at 5, 10, 16, 25, 40", kind, NOTHING, 1.0, found))
        ended = stopped_by_the_clock(found, several, generator)
        rows.append(_row("... ended by the clock", kind, NOTHING, 1.0, ended))
        found = simulate(several, kind, EDGE, count, generator)
        rows.append(_row("... all just beyond the margin", kind, EDGE, 1.0, found))
        found = simulate(several, kind, DEMO, count, generator)
        rows.append(_row("... demo-like effects", kind, DEMO, 1.0, found))
        for text, loss in (("2 % of trials fail", random_loss), ("the worst tenth fails", worst_loss)):
            found = simulate(several, kind, NOTHING, count, generator, loss)
            rows.append(_row(f"... {text}", kind, NOTHING, 1.0, found))
        for effects, margin, n in (
            (NOTHING, 2.0, 8),
            (NOTHING, 1.2, 5),
            (EDGE, 1.0, 8),
            (NOTHING[:1], 1.5, 5),
        ):
            found = simulate_pilot(
                Looks((n,), len(effects), margin, pilot=True), 60, kind, effects, count, generator
            )
            what = f"a pilot of {n}, margin {margin:g}"
            rows.append(
                _row(f"{what}, all just beyond" if effects is EDGE else what, kind, effects, margin, found)
            )
        added = later_family(kind, count, generator)
        rows.append(_row("a family added because of the first", kind, NOTHING[:4], 1.0, added))
        found = simulate(replace(several, strategies=35), kind, MANY, count, generator)
        rows.append(_row("looks at 5, 10, 16, 25, 40", kind, MANY, 1.0, found))
    return rows


def later_family(kind: str, count: int, generator: np.random.Generator) -> Outcome:
    """Four strategies that are declared after a first family of eight had nothing better, on its seeds.

    The reference's trials are the same, so what made the first family look bad may make the second look bad.
    """
    first, second = Looks(LOOKS, 8, 1.0), Looks(LOOKS, 4, 1.0)
    parts: list[Outcome] = []
    while sum(len(part.verdicts) for part in parts) < count:
        for values, reference in sweeps(kind, np.zeros(12), LOOKS[-1], count, generator):
            lost = np.zeros(values.shape, dtype=bool)
            seen = decide(first, (values - reference)[:, :8], lost[:, :8], NOTHING)
            added = (seen.verdicts != BETTER).all(axis=1)
            parts.append(decide(second, (values - reference)[added, 8:], lost[added, 8:], NOTHING[:4]))
    found = joined(parts)
    return Outcome(found.verdicts[:count], found.stops[:count], found.covered[:count])


def beyond(count: int, generator: np.random.Generator) -> list[Row]:
    """What the rule does not cover, and what it replaces."""
    rows = []
    for looks, effects in ((Looks((8,), 35), MANY), (Looks((8,), 8), NOTHING)):
        found = simulate(looks, "skewed differences", effects, count, generator)
        rows.append(_row("one look, 8 seeds", "skewed differences", effects, None, found, held=False))
    found = simulate_pilot(Looks((8,), 35, 1.5, pilot=True), 60, "skewed differences", MANY, count, generator)
    rows.append(_row("a pilot of 8, margin 1.5", "skewed differences", MANY, 1.5, found, held=False))
    kind = "very skewed differences"
    for looks in (Looks((8,), 8), Looks(LOOKS, 8)):
        way = ("one look, " if len(looks.at) == 1 else "looks at ") + ", ".join(map(str, looks.at))
        way += " seeds" if len(looks.at) == 1 else ""
        rows.append(
            _row(way, kind, NOTHING, None, simulate(looks, kind, NOTHING, count, generator), held=False)
        )
    for kind in ("skewed differences", "very skewed differences"):
        rows.append(students(kind, count, generator))
    rows.append(until_significant(count, generator))
    return rows


def students(kind: str, count: int, generator: np.random.Generator) -> Row:
    """Student's interval at one look of 8 seeds, which the rule's replaces."""
    failed, t = 0, stats.t.isf(ALPHA / 16, 7)
    for values, reference in sweeps(kind, NOTHING, 8, count, generator):
        found = values - reference
        mean, error = found.mean(axis=-1), found.std(axis=-1, ddof=1) / math.sqrt(8)
        failed += int((np.abs(mean) > t * error).any(axis=1).sum())
    return Row("one look, 8 seeds, Student's interval", kind, 8, failed, failed, count, held=False)


def noticed(count: int, generator: np.random.Generator) -> list[tuple[int, dict[str, float]]]:
    """In what share of strategies differences are found to be skewed, by seeds and distribution."""
    rows = []
    for n in (10, 20, 40):
        shares = {}
        for kind in (*KINDS, "very skewed differences"):
            parts = sweeps(kind, NOTHING, n, count, generator)
            p = [stats.skewtest(values - reference, axis=-1).pvalue for values, reference in parts]
            shares[kind] = float((np.concatenate(p) < skewness.SURE).mean())
        rows.append((n, shares))
    return rows


def until_significant(count: int, generator: np.random.Generator) -> Row:
    """Holm's tests at every seed from 5 to 20, until the smallest p of eight is significant."""
    failed = 0
    for values, reference in sweeps("normal", NOTHING, 20, count, generator):
        found = values - reference
        ever = np.zeros(len(found), dtype=bool)
        for n in range(5, 21):
            p = stats.ttest_1samp(found[..., :n], 0, axis=-1).pvalue
            ever |= np.asarray(p).min(axis=1) * 8 < ALPHA
        failed += int(ever.sum())
    return Row("a look at every seed from 5 to 20, Holm", "normal", 8, failed, failed, count, held=False)


def may_be_best(kind: str, count: int, generator: np.random.Generator) -> Row:
    """Eight equal strategies on ten seeds: is one that is truly best left out of those that may be?

    The first stands for it: all are equally good, and a choice among them must not see the results.
    """
    missed = 0
    for values, _ in sweeps(kind, NOTHING, 10, count, generator):
        _, _, _, high = bounds(values[:, :1] - values[:, 1:], 2 * ALPHA / 7)
        missed += int((high < 0).any(axis=1).sum())
    return Row("set that may be best, 10 seeds", kind, 8, missed, missed, count)


@dataclass(frozen=True)
class Cost:
    """Mean trials of a sweep under the rule, and of the fixed design that decides as many strategies."""

    effects: str
    margin: float | None
    looks: tuple[int, ...]
    decided: float
    trials: float
    fixed: float
    """By the same interval."""
    plain: float
    """By Student's own, which skewed differences break."""


def costs(count: int, generator: np.random.Generator) -> list[Cost]:
    """Trials for no effect, demo-like and mixed effects, of normal results."""
    rows = []
    for margin in (1.0, 1.5, None):
        for text, effects in (("none", NOTHING), ("demo-like", DEMO), ("mixed", MIXED)):
            drawn = sweeps("normal", effects, 80, min(count, 5000), generator)
            fixed = np.concatenate([values - reference for values, reference in drawn])
            shares = [[_share(fixed, n, margin, student) for n in range(2, 81)] for student in (False, True)]
            for at in (LOOKS, (10, 16, 25, 40))[: 2 if margin == 1.0 else 1]:
                found = simulate(Looks(at, 8, margin), "normal", effects, count, generator)
                equal = [
                    9 * float(np.interp(found.decided, np.maximum.accumulate(share), range(2, 81)))
                    for share in shares
                ]
                rows.append(Cost(text, margin, at, found.decided, found.trials, *equal))
    return rows


def _share(found: Numbers, n: int, margin: float | None, student: bool) -> float:
    """Share of strategies that one look of n seeds decides."""
    error = Looks((n,), found.shape[1]).error(n)
    mean, spread, low, high = bounds(found[..., :n], error)
    if student:
        width = stats.t.isf(error / 2, n - 1) / math.sqrt(n) * spread
        low, high = mean - width, mean + width
    same = (-(margin or 0) < low) & (high < (margin or 0))
    return float(((low > 0) | (high < 0) | same).mean())


def derived_designs(count: int, generator: np.random.Generator) -> list[tuple[Looks, float, float]]:
    """Looks derived for a power of 0.8: what they find at an effect of the margin, and at none."""
    rows = []
    for margin, strategies in ((1.0, 8), (1.5, 3), (1.0, 35)):
        looks = power.derived(margin, SPREAD, strategies)
        effects = np.zeros(strategies)
        there = simulate(looks, "normal", effects + margin, count, generator).verdicts == BETTER
        none = simulate(looks, "normal", effects, count, generator).verdicts == SAME
        rows.append((looks, float(there.mean()), float(none.mean())))
    return rows


def alarms(count: int, generator: np.random.Generator) -> list[Row]:
    """The rows of the first table."""
    best = [may_be_best(kind, count, generator) for kind in KINDS]
    return [*false_alarms(count, generator), *best, *beyond(count, generator)]


def shown(rows: Sequence[Row]) -> Iterator[str]:
    """The first table, in Markdown: kinds of results side by side."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    yield "| way of looking | strategies | " + " | ".join(kinds) + " |"
    yield "|---|---:|" + "---:|" * len(kinds)
    for way, strategies in dict.fromkeys((row.way, row.strategies) for row in rows):
        cells = {row.kind: row for row in rows if (row.way, row.strategies) == (way, strategies)}
        texts = [
            f"{row.wrong / row.count:.1%} / {row.uncovered / row.count:.1%}" + (" *" if row.bad else "")
            if (row := cells.get(kind)) is not None
            else ""
            for kind in kinds
        ]
        yield f"| {way} | {strategies} | " + " | ".join(texts).replace("%", " %") + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    count, generators = arguments.sweeps, np.random.default_rng(arguments.seed).spawn(4)
    rows = alarms(count, generators[0])
    print(
        "Sweeps with a wrong verdict / with an interval that misses the truth (* significantly above 5 %)\n"
    )
    print("\n".join(shown(rows)))
    print("\n| effects | margin | looks | decided | trials | fixed, same interval | fixed, Student's |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for cost in costs(count, generators[1]):
        looks, margin = ", ".join(map(str, cost.looks)), "none" if cost.margin is None else f"{cost.margin:g}"
        line = f"| {cost.effects} | {margin} | {looks} | {cost.decided:.0%} | {cost.trials:.0f} "
        for fixed in (
            cost.fixed,
            cost.plain,
        ):  # where nothing can be decided, no trial at all decides as much
            line += f"| {fixed:.0f} ({fixed / cost.trials:.2f}) " if cost.decided > ALPHA else "| - "
        print(line.replace("%", " %") + "|")
    print(
        "\n| margin | strategies | looks | a difference of the margin is found | no difference is the same |"
    )
    print("|---:|---:|---|---:|---:|")
    for found, there, none in derived_designs(count, generators[2]):
        looks = ", ".join(map(str, found.at))
        line = f"| {found.margin:g} | {found.strategies} | {looks} | {there:.0%} | {none:.0%} |"
        print(line.replace("%", " %"))
    print("\n| seeds | " + " | ".join((*KINDS, "very skewed differences")) + " |\n|---:|" + "---:|" * 6)
    for n, shares in noticed(count, generators[3]):
        print(f"| {n} | " + " | ".join(f"{share:.0%}" for share in shares.values()).replace("%", " %") + " |")


if __name__ == "__main__":
    main()
