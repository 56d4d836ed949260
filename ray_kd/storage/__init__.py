"""Where records, checkpoints and tables lie: a local or shared path, or an object store."""

from ray_kd.storage import shapes
from ray_kd.storage.damage import DamagedFile, tell_once, whole_lines, whole_summary
from ray_kd.storage.lock import Lock, is_held
from ray_kd.storage.store import Store

__all__ = ["DamagedFile", "Lock", "Store", "is_held", "shapes", "tell_once", "whole_lines", "whole_summary"]
