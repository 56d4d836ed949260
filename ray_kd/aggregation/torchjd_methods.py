"""The methods whose weights the package torchjd computes from the Gramian of the gradients (extra ``mtl``).

A class each, since each has its options and its source; what they share is in ``TorchjdAggregator``.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field

from ray_kd.aggregation.gramian_weighting import Array, Game, GameOptions, GradientAggregator
from ray_kd.config.errors import UserError
from ray_kd.config.registry import AGGREGATORS


class TorchjdAggregator(GradientAggregator):
    """The base: a subclass names the weighting of ``torchjd.aggregation`` and the arguments that make it."""

    weighting_name: ClassVar[str]

    def setup(self) -> None:
        super().setup()
        try:
            made = getattr(importlib.import_module("torchjd.aggregation"), self.weighting_name)
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"aggregator '{self.name}' takes its weights from torchjd, and that cannot be used "
                f"({error}). Install ray-kd with the extra 'mtl': pip install 'ray-kd[mtl]'."
            ) from error
        self._weighting = made(**self.weighting_options())

    def weighting_options(self) -> dict[str, Any]:
        """Arguments of the weighting."""
        return {}

    def weigh(self, game: Game) -> Array:
        return weights_of(self._weighting, game.gramian, self.generator)


def weights_of(weighting: Any, gramian: Array, generator: torch.Generator) -> Array:
    """The weights (m,) that a torchjd weighting gives a Gramian (m, m).

    torchjd draws random numbers from PyTorch's global CPU generator. Here that generator is seeded from
    ``generator`` for the call, and its state is restored afterwards.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        with torch.no_grad():
            weights = weighting(torch.from_numpy(np.ascontiguousarray(gramian)))
    finally:
        torch.set_rng_state(state)
    return cast(Array, weights.double().numpy())


class PcgradOptions(GameOptions):
    """Options of pcgrad."""


@AGGREGATORS.register("pcgrad", source="Yu et al., NeurIPS 2020, arXiv 2001.06782")
class Pcgrad(TorchjdAggregator):
    r"""PCGrad: each gradient loses its projection on those it conflicts with, in random order; then the sum.

    Where no two gradients conflict the update is the plain sum. PCGrad changes the direction of the
    gradients and does not balance their sizes.

    Source: Yu, Kumar, Gupta, Levine, Hausman, Finn, NeurIPS 2020, arXiv 2001.06782; weights by torchjd.
    """

    Options = PcgradOptions
    traits = frozenset({"stochastic"})
    weighting_name = "PCGradWeighting"


class ImtlGOptions(GameOptions):
    """Options of imtl_g."""


@AGGREGATORS.register("imtl_g", source="Liu et al., ICLR 2021 (Towards Impartial Multi-task Learning)")
class ImtlG(TorchjdAggregator):
    r"""IMTL-G: the combination whose projections on all (normalised) gradients are equal; weights sum to 1.

    :math:`a \propto G^+ d`, where d are the norms of the gradients. Weights may be negative.

    Source: Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, ICLR 2021, in the form of arXiv 2406.16232, which
    allows linearly dependent gradients; weights by torchjd.
    """

    Options = ImtlGOptions
    traits = frozenset({"signed"})
    weighting_name = "IMTLGWeighting"


class GradVacOptions(GameOptions):
    """Options of gradient vaccine."""

    beta: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the newest cosine in the running one."""


@AGGREGATORS.register("gradvac", source="Wang et al., ICLR 2021, arXiv 2010.05874")
class GradVac(TorchjdAggregator):
    r"""Gradient vaccine: each gradient takes of each other what brings their cosine to its running mean.

    Like PCGrad, with the running mean of each pair's cosine as the target where PCGrad has 0. Pairs in
    random order; then the sum.

    Source: Wang, Tsvetkov, Firat, Cao, ICLR 2021, arXiv 2010.05874; weights by torchjd. Cosines over all
    chosen parameters at once (the publication also has them by layer).
    """

    Options = GradVacOptions
    traits = frozenset({"stochastic", "stateful"})
    weighs_zero_gradients: ClassVar[bool] = True
    weighting_name = "GradVacWeighting"

    def setup(self) -> None:
        super().setup()
        size = len(self.names) + (self.options.task == "inside")
        # torchjd makes its running cosines at the first call; here they must exist before a state loads.
        weights_of(self._weighting, np.zeros((size, size)), torch.Generator())

    def weighting_options(self) -> dict[str, Any]:
        return {"beta": self.options.beta}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # The running cosines stay in double precision on the CPU, where torchjd computes.
        kept, self._weighting = self._weighting, None
        try:
            return super()._apply(fn, recurse)
        finally:
            self._weighting = kept


class AlignedOptions(GameOptions):
    """Options of Aligned-MTL."""

    scale: Literal["min", "median", "rmse"] = "min"
    """The singular value that all are brought to: smallest, median, or root of the mean square."""


@AGGREGATORS.register("aligned", source="Senushkin et al., CVPR 2023, arXiv 2305.19000")
class Aligned(TorchjdAggregator):
    r"""Aligned-MTL: sets all singular values of the gradient matrix to one value; then the sum of its rows.

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
        return len(game.losses) * super().weigh(game)
