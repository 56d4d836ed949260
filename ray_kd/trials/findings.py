"""What a sweep's design can find, in sentences, before it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ray_kd.statistics.power import MOST, POWER, least_effect, power_same, seeds_needed
from ray_kd.trials.design import POINT, Design, Family

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
    used = [design.families[index] for index in sorted(set(design.current.values()))]
    lines = []
    for family in used:
        name = f", {family.task}" if len(used) > 1 and family.task else ""
        lines.append(f"What it can find{name}: {' '.join(_sentences(family, values, given))}")
    return lines


def spread_of(family: Family, values: Values) -> KnownSpread | None:
    """The spread in the records so far: the root mean square over strategies; None: too few seeds."""
    squares, freedom, seeds, strategies = 0.0, 0, 0, 0
    for cell in family.cells:
        own, other = values.get(cell, {}), values.get(family.reference_of(cell), {})
        differences = [own[seed] - other[seed] for seed in own if seed in other]
        if len(differences) >= FEW:
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
    if known is None and given is not None:
        known = KnownSpread(given, "as the sweep file says")
    rate = family.unit == POINT
    if known is None:
        known = KnownSpread(ASSUMED, "assumed, since no records tell; all these figures grow with it")

    def figure(value: float) -> str:
        text = f"{value:.3g}"
        return text if not rate else f"{text} point{'' if text == '1' else 's'}"

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
