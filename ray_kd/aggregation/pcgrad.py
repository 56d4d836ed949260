"""Gradient surgery."""

from __future__ import annotations

from ray_kd.aggregation.gramian_weighting import GameOptions
from ray_kd.aggregation.torchjd_base import TorchjdAggregator
from ray_kd.config.registry import AGGREGATORS


class PcgradOptions(GameOptions):
    """Options of pcgrad."""


@AGGREGATORS.register("pcgrad", source="Yu et al., NeurIPS 2020, arXiv 2001.06782")
class Pcgrad(TorchjdAggregator):
    r"""PCGrad: each gradient loses its projection on those it conflicts with, in random order; then the sum.

    If no two gradients conflict, it is the plain sum. It changes directions, not scales.

    Source: Yu, Kumar, Gupta, Levine, Hausman, Finn, NeurIPS 2020, arXiv 2001.06782; weights by torchjd.
    """

    Options = PcgradOptions
    traits = frozenset({"stochastic"})
    weighting_name = "PCGradWeighting"
