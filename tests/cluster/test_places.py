"""Places of a cluster, without a cluster."""

from __future__ import annotations

from pathlib import Path

from ray_kd.cluster.joined import Elsewhere
from ray_kd.cluster.places import MOVES, Places
from ray_kd.config.ending import Ending
from ray_kd.storage import Store
from tests.helpers import TINY
from tests.trials.test_trial_queue import queue, sweep


def test_runs_for_which_machines_are_asked_are_out_beyond_the_places(tmp_path: Path) -> None:
    base = {key: TINY[key] for key in TINY if key != "teacher"}
    for ahead in (0, 1):
        on = queue(Store(tmp_path), sweep(base=base, cells={"alone": {}}), slots=1)
        on.ahead = ahead
        assert len([job for job in (on.next(), on.next()) if job]) == 1 + ahead


def test_a_trial_on_a_node_that_is_not_ready_starts_elsewhere_and_no_crash_counts(tmp_path: Path) -> None:
    on = queue(Store(tmp_path))
    places = Places(on)
    moving = on.next()
    assert moving is not None
    for _ in range(MOVES):
        assert places.moved(moving, "node a: torch 1.13.0") is True
        assert on.next() is moving
    assert (on.started, on.active, moving.crashes) == (1, 1, 0)
    assert places.moved(moving, "node a: torch 1.13.0") is False
    assert moving.outcome is not None
    assert moving.outcome.status is Ending.UNFINISHED
    assert str(moving.outcome.reason).startswith(f"it was started on {MOVES + 1} nodes that are not ready")
    assert queue(Store(tmp_path)).next() is not None, "the same command tries it again"


def test_what_trials_reserve_is_equal_whatever_nodes_it_excludes() -> None:
    one, other = Elsewhere([{"CPU": 1.0}]), Elsewhere([{"CPU": 1.0}], ["a"])
    assert one == other
    assert hash(one) == hash(other)
    assert one != Elsewhere([{"CPU": 2.0}])
