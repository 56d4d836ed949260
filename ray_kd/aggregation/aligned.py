"""Aligned-MTL: independent components of the gradients."""

from __future__ import annotations

from typing import Literal

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions
from ray_kd.aggregation.torchjd_base import TorchjdAggregator
from ray_kd.aggregation.torchjd_weightings import weights_of
from ray_kd.config.registry import AGGREGATORS


class AlignedOptions(GameOptions):
    """Options of Aligned-MTL."""

    scale: Literal["min", "median", "rmse"] = "min"
    """The value that all singular values are set to: their minimum, median, or root mean square."""


@AGGREGATORS.register("aligned", source="Senushkin et al., CVPR 2023, arXiv 2305.19000")
class Aligned(TorchjdAggregator):
    r"""Aligned-MTL: sets all singular values of the gradient matrix to one value, and sums its rows.

    With the smallest singular value (as published) the update is as small as the weakest component.
    Weights may be negative.

    Source: Senushkin, Patakin, Kuznetsov, Konushin, CVPR 2023, arXiv 2305.19000; weights by torchjd. The
    sum of the rows, as in the published code, m times torchjd's mean.
    """

    Options = AlignedOptions
    traits = frozenset({"signed"})
    weighting_name = "AlignedMTLWeighting"

    def weighting_options(self) -> dict[str, str]:
        return {"scale_mode": self.options.scale}

    def weigh(self, game: Game) -> Array:
        return len(game.losses) * weights_of(self._weighting, game.gramian, self.generator)
