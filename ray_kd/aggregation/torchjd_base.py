"""The base of methods whose weights torchjd maintains."""

from __future__ import annotations

from typing import Any, ClassVar

from ray_kd.aggregation.gramian_weighting import Array, Game, GradientAggregator
from ray_kd.aggregation.torchjd_weightings import torchjd_weighting, weights_of


class TorchjdAggregator(GradientAggregator):
    """Weights by a weighting of torchjd; ``weighting_options`` says how to make it."""

    weighting_name: ClassVar[str]

    def setup(self) -> None:
        super().setup()
        self._weighting = torchjd_weighting(self.weighting_name, self.name, **self.weighting_options())

    def weighting_options(self) -> dict[str, Any]:
        """Arguments of the weighting."""
        return {}

    def weigh(self, game: Game) -> Array:
        return weights_of(self._weighting, game.gramian, self.generator)
