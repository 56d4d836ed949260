"""ray-kd: which distillation paths, weighted how, make this student best - and can you trust the answer?"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ray_kd.version import __version__

_WHERE = {
    "Distiller": "ray_kd.training.distiller",
    "Outputs": "ray_kd.outputs",
    "RunSpec": "ray_kd.config.spec",
    "SweepSpec": "ray_kd.config.sweep",
    "as_map": "ray_kd.outputs",
    "create_aggregator": "ray_kd.aggregation",
    "create_path": "ray_kd.paths",
    "distill": "ray_kd.training.distill",
    "read_records": "ray_kd.analysis.records",
    "run_sweep": "ray_kd.cluster.sweep",
}
__all__ = [
    "Distiller",
    "Outputs",
    "RunSpec",
    "SweepSpec",
    "__version__",
    "as_map",
    "create_aggregator",
    "create_path",
    "distill",
    "read_records",
    "run_sweep",
]

if TYPE_CHECKING:
    from ray_kd.aggregation import create_aggregator
    from ray_kd.analysis.records import read_records
    from ray_kd.cluster.sweep import run_sweep
    from ray_kd.config.spec import RunSpec
    from ray_kd.config.sweep import SweepSpec
    from ray_kd.outputs import Outputs, as_map
    from ray_kd.paths import create_path
    from ray_kd.training.distill import distill
    from ray_kd.training.distiller import Distiller


def __getattr__(name: str) -> Any:
    """Import on first use: ``import ray_kd`` costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module 'ray_kd' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)
