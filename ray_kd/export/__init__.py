"""A trained student on its way out: files that need no ray-kd, and the proof that they give its outputs."""

from ray_kd.export.write import Exported, export_run

__all__ = ["Exported", "export_run"]
