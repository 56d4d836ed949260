"""ray-kd demo."""

from __future__ import annotations

from ray_kd.cli.common import AddressOption, StorageOption, builtin_file, shown, typed
from ray_kd.cli.sweep import compare
from ray_kd.config.screen import say


def demo(storage: StorageOption = None, address: AddressOption = None) -> None:
    """Compare eight ways to distil, on real handwritten digits.

    12 teachers, 80 to 116 trials, then a table, plots and a report: minutes on two CPU cores, no
    questions, no network. A second run finds all trials finished.

    Examples:
      ray-kd demo
      ray-kd demo --storage /shared/kd --address auto    on a cluster
    """
    file = builtin_file("digits.yaml")
    again = typed("demo", address=address, storage=storage)
    retry = typed("sweep", shown(file), "--retry-failed", address=address, storage=storage)
    compare(str(file), (), address, storage, again, retry)
    say("what next:")
    say("  ray-kd status                                   every trial and where it stands")
    say("  ray-kd list paths                               ways for a teacher to teach")
    say("  ray-kd train --help                             one student of your own")
    say(f"  cp {shown(file)} mine.yaml                 then edit it, and: ray-kd sweep mine.yaml")
