"""What a sweep's design can find, in sentences, before it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ray_kd.statistics.looks import Looks
from ray_kd.statistics.power import (
    MOST,
    POWER,
    after_pilot,
    least_effect,
    power_same,
    seeds_needed,
    widest_spread,
)
from ray_kd.trials.design import Design
from ray_kd.trials.family import POINT, Family

ASSUMED = 1.0
"""Points of spread that a plan assumes where nothing has been measured."""
LARGEST = 100.0
"""Points by which rates can differ."""
FEW = 3
"""The fewest seeds of a strategy from which its spread is taken."""

Values = Mapping[str, Mapping[int, float]]
"""Cell -> seed -> the metric of a trial that finished."""


@dataclass(frozen=True)
class KnownSpread:
    """The standard deviation of differences from seed to seed, in the margin's unit, and how it is known."""

    value: float
    source: str


def can_find(design: Design, values: Values, given: float | None = None) -> list[str]:
    """A paragraph for each family of strategies: what its last look finds, and whether "the same" is near.

    Args:
        values: of the trials that finished so far.
        given: the spread that the sweep file names, in points (of a loss: in its own unit).

    Example:
        >>> from ray_kd.trials.design import implied
        >>> trials = [{"cell": cell, "seed": seed, "phase": "compare", "identity": f"{cell}{seed}"}
        ...           for cell in ("alone", "taught") for seed in range(10)]
        >>> plan = {"baseline": "alone", "trials": trials}
        >>> print(can_find(implied(plan), {})[0].partition(").")[0])
        What it can find: a difference of 1.09 points, with probability 0.8, at 10 seeds (1 strategy
    """
    used, lines = design.used, []
    for family in used:
        name = f", {family.task}" if len(used) > 1 and family.task else ""
        lines.append(f"What it can find{name}: {' '.join(_sentences(family, values, given))}")
    return lines


def spread_of(family: Family, values: Values, few: int = FEW) -> KnownSpread | None:
    """The spread in the records so far: the root mean square over strategies; None: too few seeds.

    Args:
        few: the fewest seeds of a strategy that count.
    """
    squares, freedom, seeds, strategies = 0.0, 0, 0, 0
    for cell in family.cells:
        own, other = values.get(cell, {}), values.get(family.reference_of(cell), {})
        differences = [own[seed] - other[seed] for seed in own if seed in other]
        if len(differences) >= few:
            squares += float(np.var(differences)) * len(differences)
            freedom += len(differences) - 1
            seeds, strategies = max(seeds, len(differences)), strategies + 1
    value = math.sqrt(squares / freedom) / family.unit if freedom else 0.0
    if not value > 0:
        return None
    return KnownSpread(value, f"measured on {seeds} seeds of {_counted(strategies)}")


def _sentences(family: Family, values: Values, given: float | None) -> list[str]:
    last, strategies = family.looks[-1], len(family.cells)
    if last < 2:
        return ["nothing. A single seed decides no difference."]
    known = spread_of(family, values)
    if known is None and family.sizing is not None and family.sizing.spread:
        known = KnownSpread(family.sizing.spread, "as other seeds of these cells have shown")
    if known is None and given is not None:
        known = KnownSpread(given, "as the sweep file says")
    rate = family.unit == POINT
    if known is None:
        known = KnownSpread(ASSUMED, "assumed, since no records tell; all these figures grow with it")

    def figure(value: float) -> str:
        text = f"{value:.3g}"
        return text if not rate else f"{text} point{'' if text == '1' else 's'}"

    if family.unmeasured:
        return _of_pilot(family, known, figure)
    # Splits that overlap leave an error that more seeds do not remove: the spread counts as that much larger.
    spread = known.value * math.sqrt(1 + last * family.overlap)
    looks = replace(family.judged_by, margin=family.margin, overlap=0.0)
    when = f"at {last} seeds" if len(family.looks) == 1 else f"by the last look, {last} seeds"
    effect = least_effect(looks, spread, POWER)
    least = f"a difference of {figure(effect)}"
    if rate and effect > LARGEST:
        least = "no difference that a rate can have"
    told = [
        f"{least}, with probability {POWER}, {when} ({_counted(strategies)}).",
        f"Spread of differences from seed to seed: {figure(known.value)}, {known.source}.",
    ]
    if not family.overlap and rate:
        told.append(_needed(known.value, strategies, len(family.looks)))
    if family.margin is not None:
        told.append(_same(family.margin, looks.half_width(last, spread), power_same(looks, spread), figure))
    return told


def _of_pilot(family: Family, known: KnownSpread, figure: Callable[[float], str]) -> list[str]:
    """What looks will find that depend on a pilot."""
    sizing, margin = family.sizing, family.margin
    assert sizing is not None
    assert margin is not None
    pilot = Looks(family.looks, len(family.cells), margin, pilot=True)
    widest = widest_spread(pilot, sizing.most, sizing.power)
    last = after_pilot(pilot, known.value, sizing.most, sizing.power).at[-1]
    found = f"a difference of {figure(margin)}, or that there is none, with probability {sizing.power:g}"
    told = [
        f"{found} ({_counted(len(family.cells))}). The pilot's spread sets how many seeds that takes, of at "
        f"most {sizing.most}, which are enough up to a spread of {figure(widest)}.",
        f"At a spread of {figure(known.value)}, {known.source}, the last look is at {last} seeds.",
    ]
    if family.overlap:
        told.append("Splits of the seeds overlap, which leaves an error that more seeds do not remove.")
    return told


def _needed(spread: float, strategies: int, looks: int) -> str:
    """How many seeds other differences take."""
    parts = []
    for effect, name in ((1.0, "1 point"), (0.5, "half a point")):
        try:
            seeds = f"{seeds_needed(effect, spread, strategies, looks):,}"
        except ValueError:
            seeds = f"more than {MOST:,}"
        parts.append(f"{name} takes {seeds} seeds")
    return f"At this spread {' and '.join(parts)}."


def _same(margin: float, half: float, chance: float, figure: Callable[[float], str]) -> str:
    """Whether the verdict "the same" is within reach of a strategy without any effect."""
    if half >= margin:
        return (
            f"'The same' within {margin:g} is out of reach: the last look's interval is {figure(half)} on "
            "either side of the difference."
        )
    return (
        f"A strategy without any effect is called the same within {margin:g} with probability {chance:.2g}."
    )


def _counted(strategies: int) -> str:
    return f"{strategies} strateg{'y' if strategies == 1 else 'ies'}"
