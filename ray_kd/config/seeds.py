"""The seeds of a sweep: a list, or looks: numbers of seeds at which strategies may be decided."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from ray_kd.config.options import Strict
from ray_kd.config.training import Count, Positive

Seed = Annotated[int, Field(ge=0)]
Seeds = tuple[Seed, ...]
PILOT, MOST = 8, 60
"""Seeds of the first look of a design whose spread is measured, and of its last one at most."""


class SeedLooks(Strict):
    """Numbers of seeds at which results are looked at. A strategy that a look decides gets no more seeds.

    Either ``looks`` are given, ``{looks: [10, 16, 25, 40], margin: 1}``, or ``{margin: 1, power: 0.8}``.
    """

    looks: tuple[Count, ...] | None = None
    """Increasing, each at least 2. The intervals of all strategies at all looks hold together at 95 %."""
    margin: Annotated[Positive | None, Field(le=100)] = None
    """Two strategies are the same if the interval of their difference lies within it: in points (the metric
    times 100), for a loss in its own unit; null: none is ever called the same."""
    power: Annotated[float | None, Field(ge=0.1, le=0.99)] = None
    """In place of ``looks``: as many seeds as find a difference of the margin, or that there is none, with
    this probability."""
    spread: Positive | None = None
    """With ``power``: the standard deviation of differences from seed to seed, in the margin's unit, as an
    earlier sweep measured it; null: other seeds of this sweep's cells tell it, or else the first look."""
    pilot: Annotated[int | None, Field(ge=5)] = None
    """With ``power`` and no ``spread``: seeds of the first look, which measures it; default 8."""
    most: Annotated[int | None, Field(ge=10)] = None
    """With ``power`` and no ``spread``: seeds of the last look, at most; default 60."""
    first: Seed = 0
    """The first seed; the others count up from it."""

    @field_validator("looks")
    @classmethod
    def _increasing(cls, looks: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if looks is None:
            return None
        if not looks:
            raise ValueError("expected at least one number of seeds")
        if looks[0] < 2:
            raise ValueError(f"expected at least 2 seeds at the first look, got {looks[0]}")
        for earlier, later in pairwise(looks):
            if later <= earlier:
                raise ValueError(f"expected increasing numbers of seeds, got {later} after {earlier}")
        return looks

    @model_validator(mode="after")
    def _one_way(self) -> SeedLooks:
        given = [name for name in ("power", "spread", "pilot", "most") if getattr(self, name) is not None]
        if self.looks is not None:
            if given:
                raise ValueError(f"expected looks, or power, got looks and {' and '.join(given)}")
            return self
        missing = [name for name in ("margin", "power") if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"expected looks, or margin and power, from which they are derived; "
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            )
        needless = [name for name in given if name in ("pilot", "most")]
        if self.spread is not None and needless:
            raise ValueError(
                f"expected spread, or a pilot that measures it, got spread and {' and '.join(needless)}"
            )
        if self.measured is not None:
            from ray_kd.statistics.power import TIMES  # imports SciPy, which nothing else here needs

            pilot, most, _ = self.measured
            if most < TIMES * pilot:
                raise ValueError(
                    f"most: expected at least {TIMES * pilot} seeds, {TIMES} times the pilot's, got {most}"
                )
        return self

    @property
    def measured(self) -> tuple[int, int, float] | None:
        """Seeds of the pilot, the most seeds, and the power; None: the spread is not to be measured."""
        if self.power is None or self.spread is not None:
            return None
        return self.pilot or PILOT, self.most or MOST, self.power

    def at(self, strategies: int) -> tuple[int, ...]:
        """The looks of so many strategies; of those that depend on a pilot, its own.

        Raises:
            ValueError: no number of seeds up to 10,000 has the power.
        """
        if self.looks is not None:
            return self.looks
        if self.measured is not None:
            return (self.measured[0],)
        assert self.margin is not None
        assert self.spread is not None
        assert self.power is not None
        return _derived(self.margin, self.spread, max(1, strategies), self.power)

    def last(self, strategies: int) -> int:
        """Seeds of the last look, at most."""
        return self.at(strategies)[-1] if self.measured is None else self.measured[1]


@functools.lru_cache
def _derived(margin: float, spread: float, strategies: int, power: float) -> tuple[int, ...]:
    from ray_kd.statistics.power import derived  # imports SciPy, which nothing else here needs

    try:
        return derived(margin, spread, strategies, power).at
    except ValueError as error:
        raise ValueError(f"seeds.power: {error}; expected a wider margin, or less power") from None


SeedsField = Annotated[
    Annotated[Seeds, Tag("[list]")] | Annotated[SeedLooks, Tag("[looks]")],
    Discriminator(lambda value: "[looks]" if isinstance(value, (dict, SeedLooks)) else "[list]"),
]
"""Tags with a bracket are left out of the keys that errors name."""


def require_seeds(key: str, seeds: Iterable[int], known: Iterable[int] | None = None) -> None:
    """Raise unless there are seeds, each of them once, and all of them known.

    Raises:
        ValueError: one is missing, doubled or unknown.
    """
    seeds = list(seeds)
    if not seeds:
        raise ValueError(f"{key}: the sweep has no trials; expected at least one seed")
    repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if repeated:
        raise ValueError(f"{key}: expected each seed once, got {repeated[0]} twice")
    known = None if known is None else tuple(known)
    extra = [seed for seed in seeds if known is not None and seed not in known]
    if extra and known:
        raise ValueError(f"{key}: {extra[0]} is none of the sweep's seeds ({', '.join(map(str, known))})")
