"""The seeds of a sweep: a list, or looks: numbers of seeds at which strategies may be decided."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated

from pydantic import Discriminator, Field, Tag, field_validator

from ray_kd.config.options import Strict
from ray_kd.config.training import Count, Positive

Seed = Annotated[int, Field(ge=0)]
Seeds = tuple[Seed, ...]


class SeedLooks(Strict):
    """Numbers of seeds at which results are looked at. A strategy that a look decides gets no more seeds."""

    looks: tuple[Count, ...]
    """Increasing, each at least 2. The intervals of all strategies at all looks hold together at 95 %."""
    margin: Annotated[Positive | None, Field(le=100)] = None
    """Two strategies are the same if the interval of their difference lies within it: in points (the metric
    times 100), for a loss in its own unit; null: none is ever called the same."""
    first: Seed = 0
    """The first seed; the others count up from it."""

    @field_validator("looks")
    @classmethod
    def _increasing(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        if not looks:
            raise ValueError("expected at least one number of seeds")
        if looks[0] < 2:
            raise ValueError(f"expected at least 2 seeds at the first look, got {looks[0]}")
        for earlier, later in pairwise(looks):
            if later <= earlier:
                raise ValueError(f"expected increasing numbers of seeds, got {later} after {earlier}")
        return looks

    @property
    def seeds(self) -> Seeds:
        """All of them, in the order in which looks take them."""
        return tuple(range(self.first, self.first + self.looks[-1]))


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
