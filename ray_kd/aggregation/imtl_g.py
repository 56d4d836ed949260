"""IMTL-G: impartial multitask learning by gradients."""

from __future__ import annotations

from ray_kd.aggregation.gramian_weighting import GameOptions
from ray_kd.aggregation.torchjd_base import TorchjdAggregator
from ray_kd.config.registry import AGGREGATORS


class ImtlGOptions(GameOptions):
    """Options of imtl_g."""


@AGGREGATORS.register("imtl_g", source="Liu et al., ICLR 2021 (Towards Impartial Multi-task Learning)")
class ImtlG(TorchjdAggregator):
    r"""IMTL-G: the combination whose projections on all (normalised) gradients are equal; weights sum to 1.

    :math:`a \propto G^+ d`, d the norms. Weights may be negative.

    Source: Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang, ICLR 2021, in the form of arXiv 2406.16232 that
    takes dependent gradients; weights by torchjd.
    """

    Options = ImtlGOptions
    traits = frozenset({"signed"})
    weighting_name = "IMTLGWeighting"
