"""ray-kd demo."""

from __future__ import annotations

from ray_kd.cli.common import AddressOption, StorageOption, builtin_file, shown
from ray_kd.cli.sweep import compare


def demo(storage: StorageOption = None, address: AddressOption = None) -> None:
    """Compare nine ways to distil on real handwritten digits: teacher, 50 trials, table, plots, report.

    No questions, no network, minutes on two CPU cores; a second run finds everything done.
    """
    file = builtin_file("digits.yaml")
    compare(str(file), (), address, storage)
    print("what next:")
    print("  ray-kd status                                   every trial and where it stands")
    print("  ray-kd list paths                               ways for a teacher to teach")
    print(f"  cp {shown(file)} mine.yaml                 then edit it, and: ray-kd sweep mine.yaml")
