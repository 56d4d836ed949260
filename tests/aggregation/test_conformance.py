"""Every registered aggregator passes the public conformance suites; a new one needs no line here."""

from __future__ import annotations

from ray_kd.config.registry import AGGREGATORS
from ray_kd.testing.aggregators import AggregatorConformance

for _name in AGGREGATORS.names():
    _title = "Test" + _name.title().replace("_", "")
    globals()[_title] = type(_title, (AggregatorConformance,), {"aggregator": _name})
