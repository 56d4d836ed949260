"""Every registered path passes the public suite; a new one needs no test code to be in it."""

from __future__ import annotations

from ray_kd.config.registry import PATHS
from ray_kd.testing.paths import PathConformance

for _name in PATHS.names():
    _title = "Test" + "".join(part.title() for part in _name.split("_"))
    globals()[_title] = type(_title, (PathConformance,), {"path": _name, "__module__": __name__})
del PathConformance
