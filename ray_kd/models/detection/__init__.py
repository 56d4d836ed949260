"""Detectors: networks whose Outputs carry a head that knows boxes."""

from ray_kd.models.detection.scenes_detector import ScenesDetector

__all__ = ["ScenesDetector"]
