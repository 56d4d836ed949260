"""Search spaces: what a searched key may be, drawn from a generator or listed as a grid."""

from __future__ import annotations

import math
import random
from typing import Any

from pydantic import model_validator

from ray_kd.config.options import Strict

Bounds = tuple[float, float]
Integers = tuple[int, int]


class Space(Strict):
    """The values of one searched key: exactly one of these. A plain list is short for ``choice``."""

    choice: tuple[Any, ...] | None = None
    """Any of these values."""
    uniform: Bounds | None = None
    """A number between two bounds."""
    log_uniform: Bounds | None = None
    """A number between two bounds > 0, uniform in its logarithm."""
    integer: Integers | None = None
    """An integer between two bounds, both included."""
    log_integer: Integers | None = None
    """An integer between two bounds >= 1, both included, uniform in its logarithm."""

    @model_validator(mode="before")
    @classmethod
    def _list_is_choice(cls, data: Any) -> Any:
        return {"choice": data} if isinstance(data, (list, tuple)) else data

    @model_validator(mode="after")
    def _one_kind(self) -> Space:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(type(self).model_fields)}, got {given or 'none'}")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("choice: expected at least one value")
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"{self.kind}: expected a lower bound below the upper one, got [{low}, {high}]")
        if self.kind.startswith("log_") and low <= 0:
            raise ValueError(f"{self.kind}: expected bounds above 0, got [{low}, {high}]")
        return self

    @property
    def kind(self) -> str:
        """Which of the fields is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of a range."""
        low, high = getattr(self, self.kind)
        return low, high

    def sample(self, generator: random.Random) -> Any:
        """One value."""
        if self.choice is not None:
            return self.choice[generator.randrange(len(self.choice))]
        low, high = self.bounds
        if self.kind == "integer":
            return generator.randint(int(low), int(high))
        if self.kind == "uniform":
            return generator.uniform(low, high)
        if self.kind == "log_integer":
            value = math.exp(generator.uniform(math.log(low - 0.5), math.log(high + 0.5)))
            return min(max(round(value), int(low)), int(high))
        return math.exp(generator.uniform(math.log(low), math.log(high)))

    def contains(self, value: Any) -> bool:
        """Whether ``value`` can be drawn (a former trial counts only while it lies in today's space)."""
        if self.choice is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choice)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        low, high = self.bounds
        return low <= value <= high
