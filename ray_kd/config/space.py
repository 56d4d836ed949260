"""Search spaces: the values of a searched key, drawn at random or listed as a grid."""

from __future__ import annotations

import math
import random
from typing import Annotated, Any

from pydantic import Field, model_validator

from ray_kd.config.options import Strict

Bounds = tuple[float, float]
Integers = tuple[int, int]
KINDS = ("choice", "uniform", "log_uniform", "integer", "log_integer")


class Space(Strict):
    """The values of one searched key, of one of these kinds. A plain list is short for ``choice``."""

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

    zero: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that the value is exactly 0 instead of between the bounds, for a weight that may be off."""

    @model_validator(mode="before")
    @classmethod
    def _list_is_choice(cls, data: Any) -> Any:
        return {"choice": data} if isinstance(data, (list, tuple)) else data

    @model_validator(mode="after")
    def _one_kind(self) -> Space:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(KINDS)}, got {' and '.join(given) or 'none'}")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("choice: expected at least one value")
            if self.zero:
                raise ValueError("zero: only a range takes it; add 0 to a list of values instead")
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"{self.kind}: expected a lower bound below the upper one, got [{low}, {high}]")
        if self.kind.startswith("log_") and low <= 0:
            raise ValueError(f"{self.kind}: expected bounds above 0, got [{low}, {high}]")
        return self

    @property
    def kind(self) -> str:
        """The kind that is given."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of a range."""
        low, high = getattr(self, self.kind)
        return low, high

    def sample(self, generator: random.Random) -> Any:
        """One value."""
        if self.choice is not None:
            return self.choice[generator.randrange(len(self.choice))]
        if self.zero and generator.random() < self.zero:
            return 0.0
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
        """Whether ``value`` lies in the space; an earlier candidate counts only if it does."""
        if self.choice is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choice)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        low, high = self.bounds
        return low <= value <= high or (self.zero > 0 and value == 0)
