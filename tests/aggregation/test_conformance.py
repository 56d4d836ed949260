"""Every registered aggregator passes the public conformance suites; a new one needs no line here."""

from __future__ import annotations

import importlib.util

import pytest

from ray_kd.aggregation.torchjd_methods import TorchjdAggregator
from ray_kd.config.registry import AGGREGATORS
from ray_kd.testing.aggregators import AggregatorConformance

HAS_TORCHJD = importlib.util.find_spec("torchjd") is not None

for _name in AGGREGATORS.names():
    _title = "Test" + _name.title().replace("_", "")
    _class = type(_title, (AggregatorConformance,), {"aggregator": _name})
    if issubclass(AGGREGATORS.get(_name), TorchjdAggregator) and not HAS_TORCHJD:
        _class = pytest.mark.skip(reason="needs the extra 'mtl' (torchjd)")(_class)
    globals()[_title] = _class


class TestStchAsTheCode(AggregatorConformance):
    """The other form of ``stch``, whose nadir is known from the second epoch on."""

    aggregator = "stch"
    options = {"form": "code", "warmup_epochs": 0}
