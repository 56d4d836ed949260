"""Candidates for the rule of ray_kd/statistics/looks.py: which decides most with the fewest trials.

    python -m benchmarks.rules                           # 4,000 sweeps each, two minutes on one core

All use Student's interval (or a confidence sequence), first verdict stands, no stop as hopeless, so that they
differ in nothing but the error of each look. Exact forms take it from the joint distribution of the t
statistics of the looks under normality, from two million simulated ones.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, stats

from benchmarks.coverage import DEMO, MIXED, NOTHING
from benchmarks.synthetic import Numbers, sweeps
from ray_kd.statistics.intervals import ALPHA
from ray_kd.statistics.looks import Looks

MARGIN = 1.0
MOST = 80
"""Seeds of the largest fixed design."""
Rule = Callable[[Sequence[int], int], Numbers]
"""From looks and strategies to the quantile t of each look; the interval is mean +- t s / sqrt(n)."""


def evenly(looks: Sequence[int], strategies: int) -> Numbers:
    """Bonferroni's bound over strategies and looks, equal errors."""
    n = np.asarray(looks)
    return np.asarray(stats.t.isf(ALPHA / (2 * strategies * len(n)), n - 1))


def spent(looks: Sequence[int], strategies: int) -> Numbers:
    """The rule of looks.py: the power family with exponent 2, by Bonferroni's bound."""
    design = Looks(tuple(looks), strategies)
    return np.array([stats.t.isf(design.error(n) / 2, n - 1) for n in looks])


def null_levels(looks: Sequence[int], count: int = 2_000_000) -> Numbers:
    """Two-sided p of the t statistics at the looks, (count, looks), where there is no difference."""
    generator = np.random.default_rng(1)
    total, squares, before, columns = np.zeros(count), np.zeros(count), 0, []
    for n in looks:
        more = n - before
        part = generator.standard_normal(count) * math.sqrt(more)
        total += part
        squares += part * part / more + (generator.chisquare(more - 1, count) if more > 1 else 0.0)
        t = total / np.sqrt(n * (squares - total * total / n) / (n - 1))
        columns.append(2 * stats.t.sf(np.abs(t), n - 1))
        before = n
    return np.stack(columns, axis=1)


def same_level(looks: Sequence[int], strategies: int) -> Numbers:
    """Pocock's form, exact: one nominal level for all looks."""
    level = np.quantile(null_levels(looks).min(axis=1), ALPHA / strategies)
    return np.array([stats.t.isf(level / 2, n - 1) for n in looks])


def exact(spending: Callable[[float], float]) -> Rule:
    """A spending function of n/N, exact: what it spends by a look is the chance of an error by then."""

    def rule(looks: Sequence[int], strategies: int) -> Numbers:
        levels, quantiles, before = null_levels(looks), [], 0.0
        alive = np.ones(len(levels), dtype=bool)
        for column, n in zip(levels.T, looks, strict=True):
            now = spending(n / looks[-1]) * ALPHA / strategies
            allowed = max(1, int((now - before) * len(levels)))
            level = float(np.partition(column[alive], allowed)[allowed])
            alive &= column >= level
            quantiles.append(float(stats.t.isf(level / 2, n - 1)))
            before = now
        return np.array(quantiles)

    return rule


def obrien_fleming(share: float) -> float:
    """Lan and DeMets' spending function (Biometrika 70, 1983) at an error of 5 %, relative to it."""
    return float(2 * stats.norm.sf(stats.norm.isf(ALPHA / 2) / math.sqrt(share)) / ALPHA)


def sequence(variance: float) -> Rule:
    """An e-process for normal differences of unknown variance, at every look.

    The scale-invariant mixture of Lai (Annals of Statistics 4, 1976), as in Wang and Ramdas ("Anytime-valid
    t-tests and confidence sequences for Gaussian means with unknown variance", 2310.03722): the effect in
    standard deviations is mixed over a normal distribution with this variance; Ville's inequality.
    """

    def rule(looks: Sequence[int], strategies: int) -> Numbers:
        bound = math.log(strategies / ALPHA)
        quantiles = []
        for n in looks:
            grown = 1 + n * variance

            def excess(t: float, n: int = n, grown: float = grown) -> float:
                x = t * t / (n - 1)
                return -0.5 * math.log(grown) + n / 2 * (math.log1p(x) - math.log1p(x / grown)) - bound

            reached = (n - 1) / 2 * math.log(grown) > bound * 1.001
            quantiles.append(float(optimize.brentq(excess, 0, 1e9)) if reached else math.inf)
        return np.array(quantiles)

    return rule


def decided(found: Numbers, looks: Sequence[int], quantiles: Numbers) -> tuple[float, float]:
    """Share of strategies decided, and mean trials of a sweep; found: (sweeps, strategies, seeds)."""
    n = np.arange(1, found.shape[-1] + 1)
    mean = found.cumsum(axis=-1) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(np.maximum((found**2).cumsum(axis=-1) - n * mean**2, 0) / (n - 1))
    running = np.ones(found.shape[:2], dtype=bool)
    stops = np.full(found.shape[:2], looks[-1])
    for look, t in zip(looks, quantiles, strict=True):
        width = t * spread[..., look - 1] / math.sqrt(look)
        distance = np.abs(mean[..., look - 1])
        ends = running & ((distance > width) | (distance + width < MARGIN))
        stops[ends] = look
        running &= ~ends
    return 1 - float(running.mean()), float((stops.sum(axis=1) + stops.max(axis=1)).mean())


RULES: dict[str, Rule] = {
    "Bonferroni, evenly": evenly,
    "power family 2, Bonferroni (taken)": spent,
    "one level for all looks (Pocock), exact": same_level,
    "power family 1, exact": exact(lambda share: share),
    "power family 2, exact": exact(lambda share: share**2),
    "power family 3, exact": exact(lambda share: share**3),
    "O'Brien and Fleming's kind, exact": exact(obrien_fleming),
}
DESIGNS = ((10, 16, 25, 40), (5, 10, 16, 25, 40), tuple(range(4, 41, 4)))
EVERY = tuple(range(3, 41))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=4000)
    arguments = parser.parse_args()
    generator, samples, fixed = np.random.default_rng(0), {}, {}
    for text, effects in (("no effect", NOTHING), ("demo-like", DEMO), ("mixed", MIXED)):
        drawn = list(sweeps("normal", effects, MOST, arguments.sweeps, generator))
        samples[text] = np.concatenate([values - reference for values, reference in drawn])
        shares = [decided(samples[text], (n,), evenly((n,), 8))[0] for n in range(2, MOST + 1)]
        fixed[text] = np.maximum.accumulate(shares)
    print("| rule | looks | " + " | ".join(samples) + " |\n|---|---|" + "---:|" * len(samples))
    rules = [(name, rule, at) for at in DESIGNS for name, rule in RULES.items()]
    rules += [(f"e-process, variance {v:g}", sequence(v), EVERY) for v in (0.25, 1.0, 4.0)]
    for name, rule, at in rules:
        quantiles, cells = rule(at, 8), []
        for text, found in samples.items():
            share, trials = decided(found, at, quantiles)
            equal = 9 * float(np.interp(share, fixed[text], range(2, MOST + 1)))
            cells.append(f"{share:.0%} with {trials:.0f} ({equal / trials:.2f})".replace("%", " %"))
        looks = ", ".join(map(str, at)) if len(at) < 12 else f"each from {at[0]} to {at[-1]}"
        print(f"| {name} | {looks} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
