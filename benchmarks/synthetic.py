"""Synthetic sweeps whose truth is known, drawn and judged thousands at a time, for benchmarks/coverage.py."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ray_kd.statistics import power, skewness
from ray_kd.statistics.looks import HOPELESS, HOPELESS_FROM, Looks, Verdict, judge

Numbers = NDArray[np.float64]
Lost = NDArray[np.bool_]
Draw = Callable[[tuple[int, ...]], Numbers]

KINDS = ("normal", "skewed results", "skewed differences", "t, 5 degrees", "t, 3 degrees")
"""Distributions for which the rule is meant to hold."""
CHUNK = 1000
"""Sweeps that are in memory at once."""
CHECKED = 5
"""Sweeps of each kind that the product's own function judges too."""
ROUNDED = 50
"""Looks after a pilot are computed for spreads that differ by 1 %, and shared by those between."""
SPREAD = 1.5
"""Standard deviation of a difference from seed to seed, in points."""
ORDER = (Verdict.OPEN, Verdict.BETTER, Verdict.WORSE, Verdict.SAME, Verdict.NONE)
OPEN, BETTER, WORSE, SAME, NONE = range(5)


def _unit(
    draw: Callable[[tuple[int, ...]], Numbers], mean: float, deviation: float
) -> Callable[..., Numbers]:
    return lambda shape: (draw(shape) - mean) / deviation


def distributions(generator: np.random.Generator) -> dict[str, tuple[Draw, float]]:
    """By name: how results are drawn (mean 0, variance 1), and the sign of the reference's."""
    gamma4 = _unit(lambda shape: generator.standard_gamma(4, shape), 4, 2)
    gamma2 = _unit(lambda shape: generator.standard_gamma(2, shape), 2, math.sqrt(2))
    half = _unit(lambda shape: generator.standard_gamma(0.5, shape), 0.5, math.sqrt(0.5))
    return {
        "normal": (generator.standard_normal, 1.0),
        "skewed results": (gamma4, 1.0),
        "skewed differences": (gamma2, -1.0),
        "t, 5 degrees": (_unit(lambda shape: generator.standard_t(5, shape), 0, math.sqrt(5 / 3)), 1.0),
        "t, 3 degrees": (_unit(lambda shape: generator.standard_t(3, shape), 0, math.sqrt(3)), 1.0),
        "very skewed differences": (half, -1.0),
    }


@dataclass(frozen=True)
class Outcome:
    """Sweeps under the rule; arrays of (sweeps, strategies)."""

    verdicts: NDArray[np.int64]
    """Indices of ``ORDER``."""
    stops: NDArray[np.int64]
    """Seeds trained."""
    covered: NDArray[np.bool_]
    """Whether the intervals of all looks hold the truth, those after the verdict too; lost ones do."""

    @property
    def trials(self) -> float:
        """Mean number of trials of a sweep; the reference trains while any strategy does."""
        return float((self.stops.sum(axis=1) + self.stops.max(axis=1)).mean())

    @property
    def decided(self) -> float:
        """Share of strategies that are better, worse or the same."""
        return float(((self.verdicts >= BETTER) & (self.verdicts <= SAME)).mean())


def sweeps(
    name: str, effects: Numbers, seeds: int, count: int, generator: np.random.Generator
) -> Iterator[tuple[Numbers, Numbers]]:
    """Chunks of results: (sweeps, strategies, seeds) and those of the reference (sweeps, 1, seeds)."""
    draw, sign = distributions(generator)[name]
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        reference = sign * draw((size, 1, seeds)) * SPREAD / math.sqrt(2)
        yield draw((size, len(effects), seeds)) * SPREAD / math.sqrt(2) + effects[:, None], reference


def bounds(found: Numbers, error: float) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Mean, standard deviation and interval along the last axis: ``skewness.interval``, vectorised."""
    n = found.shape[-1]
    mean, spread = found.mean(axis=-1), found.std(axis=-1, ddof=1)
    width = stats.t.isf(error / 2, n - 1) / math.sqrt(n)
    scaled = (found - mean[..., None]) / spread[..., None]
    central = (scaled * scaled * scaled).mean(axis=-1)
    skew = central * n**2 / ((n - 1) * max(1, n - 2)) * (1 + skewness.SMALL_SAMPLE / n) if n > 2 else 0 * mean
    longer = np.minimum(width, np.abs(skew) * (width**2 / 3 + 1 / (6 * n)))
    low = mean - spread * (width + np.where(skew < 0, longer, 0))
    return mean, spread, low, mean + spread * (width + np.where(skew > 0, longer, 0))


def decide(looks: Looks, differences: Numbers, lost: Lost, effects: Numbers) -> Outcome:
    """``judge`` for all sweeps at once; lost: (sweeps, strategies, seeds)."""
    shape = differences.shape[:2]
    verdicts, stops = np.zeros(shape, dtype=np.int64), np.full(shape, looks.at[-1])
    running, covered = np.ones(shape, dtype=bool), np.ones(shape, dtype=bool)
    for index, n in enumerate(looks.at):
        gone = lost[..., :n].any(axis=-1)
        mean, spread, low, high = bounds(differences[..., :n], looks.error(n))
        covered &= gone | ((low <= effects) & (effects <= high))
        margin = looks.margin or 0.0
        same = (-margin < low) & (high < margin)
        found = np.select([gone, low > 0, high < 0, same], [NONE, BETTER, WORSE, SAME], OPEN)
        ends = found != OPEN
        if HOPELESS_FROM - 1 <= index < len(looks.at) - 1:
            ends |= _chance(looks, n, mean, spread) < HOPELESS
        verdicts[running] = found[running]
        stops[running & ends] = n
        running &= ~ends
    return Outcome(verdicts, stops, covered)


def _chance(looks: Looks, n: int, mean: Numbers, spread: Numbers) -> Numbers:
    last = looks.at[-1]
    width, scale = looks.half_width(last, 1.0) * spread, spread * math.sqrt(last - n) / last
    chance = stats.norm.sf((width - mean) / scale) + stats.norm.cdf((-width - mean) / scale)
    room = np.maximum((looks.margin or 0.0) - width, 0.0)
    return np.asarray(chance + stats.norm.cdf((room - mean) / scale) - stats.norm.cdf((-room - mean) / scale))


def check(looks: Looks, values: Numbers, reference: Numbers, lost: Lost, found: Outcome) -> None:
    """Stop if the product's own function judges one of these sweeps otherwise."""
    seeds = range(values.shape[-1])
    for sweep in range(min(CHECKED, len(values))):
        others = dict(enumerate(reference[sweep, 0].tolist()))
        for strategy in range(values.shape[1]):
            kept = {
                seed: float(values[sweep, strategy, seed])
                for seed in seeds
                if not lost[sweep, strategy, seed]
            }
            own = judge(looks, seeds, kept, others, seeds)
            ours = ORDER[found.verdicts[sweep, strategy]], found.stops[sweep, strategy]
            assert (own.verdict, own.look) == ours, (looks, sweep, strategy, own, ours)


def simulate_pilot(
    pilot: Looks, most: int, name: str, effects: Numbers, count: int, generator: np.random.Generator
) -> Outcome:
    """Judge this many sweeps whose later looks are chosen from the spread that the pilot shows."""
    assert pilot.margin is not None
    n, parts = pilot.at[0], list[Outcome]()
    for values, reference in sweeps(name, effects, most, count, generator):
        found = values - reference
        kept = decide(pilot, found, no_loss(found, generator), effects).verdicts == OPEN
        pooled = (found[..., :n].var(axis=-1, ddof=1) * kept).sum(axis=1) / np.maximum(1, kept.sum(axis=1))
        keys = np.ceil(np.log(np.maximum(pooled, 1e-6)) * ROUNDED)
        for key in np.unique(keys):
            of = keys == key
            looks = _after_pilot(pilot, math.exp(float(key) / ROUNDED / 2), most)
            parts.append(decide(looks, found[of], no_loss(found[of], generator), effects))
            if len(parts) == 1:
                check(looks, values[of], reference[of], no_loss(found[of], generator), parts[0])
    return joined(parts)


_after_pilot = functools.lru_cache(None)(power.after_pilot)


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Several parts as one."""
    arrays = ("verdicts", "stops", "covered")
    return Outcome(*(np.concatenate([getattr(part, key) for part in parts]) for key in arrays))


def no_loss(values: Numbers, _: np.random.Generator) -> Lost:
    """No trial fails."""
    return np.zeros(values.shape, dtype=bool)


def random_loss(values: Numbers, generator: np.random.Generator) -> Lost:
    """Each trial of a strategy fails with a chance of 2 %."""
    return generator.random(values.shape) < 0.02


def worst_loss(values: Numbers, _: np.random.Generator) -> Lost:
    """The worst tenth of all trials of the strategies fail."""
    return np.asarray(values < np.quantile(values, 0.1))


def simulate(
    looks: Looks,
    name: str,
    effects: Numbers,
    count: int,
    generator: np.random.Generator,
    loss: Callable[[Numbers, np.random.Generator], Lost] = no_loss,
) -> Outcome:
    """Judge this many sweeps."""
    parts = []
    for values, reference in sweeps(name, effects, looks.at[-1], count, generator):
        lost = loss(values, generator)
        parts.append(decide(looks, values - reference, lost, effects))
        if len(parts) == 1:
            check(looks, values, reference, lost, parts[0])
    return joined(parts)
