"""Aggregators by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions, parse_component
from ray_kd.config.registry import AGGREGATORS


def create_aggregator(
    name: str | AggregatorOptions,
    *,
    names: Sequence[str],
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    **options: Any,
) -> Aggregator:
    """An aggregator for the given losses.

    Args:
        name: a registered aggregator, or its Options.
        names: names of the losses in each call.
        weights: static weight of each path (or loss) by name; 1 where absent.
        seed: key of the aggregator's random stream.
        **options: the aggregator's own options (``granularity="layer"``, ``k=2`` ...).

    Raises:
        UserError: unknown aggregator or option, or weights that it refuses.

    Example:
        >>> import torch
        >>> aggregator = create_aggregator("fixed", names=["logits"], weights={"logits": 0.5})
        >>> update = aggregator(torch.tensor(1.0), {"logits": torch.tensor(4.0)})
        >>> float(update.total), update.weights
        (3.0, {'logits': 0.5})
    """
    parsed = parse_component(
        AGGREGATORS, name if isinstance(name, AggregatorOptions) else {"name": name, **options}
    )
    aggregator: Aggregator = AGGREGATORS.get(parsed.component_name)(parsed, names, weights, seed)
    return aggregator
