"""A storage that is away for some time: the sweep waits, loses no run, and ends if that lasts. No Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from ray_kd.cluster.progress import snapshot
from ray_kd.config.ending import Ending
from ray_kd.config.faults import EnvironmentFault
from ray_kd.storage import Store
from ray_kd.trials import pause
from ray_kd.trials.job import RETRIES, Job
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.pause import try_again, wait_before
from ray_kd.trials.trial_queue import TrialQueue
from tests.cluster.faults import full_disk
from tests.trials.test_endings import fault
from tests.trials.test_trial_queue import end, queue, sweep

FINISHED = Outcome(Ending.FINISHED, None, 1.0, 3, {"top1": 0.5})
LONG = 1000.0
"""Seconds that no test lasts."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of milliseconds instead of seconds."""
    monkeypatch.setattr(pause, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(pause, "LONGEST_WAIT", 0.01)


def ticks(on: TrialQueue, what: Callable[[], object]) -> None:
    """Go on as the driver does until something is the case."""
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until, "waited in vain"
        on.tick()
        time.sleep(0.001)


def taken(on: TrialQueue) -> Job:
    """The next run, which has to be there."""
    job = on.next()
    assert job is not None
    on.running(job.identity)
    return job


def rest(on: TrialQueue) -> list[str]:
    """Train all that is left."""
    done = []
    while not on.over:
        on.tick()
        job = on.next()
        if job is not None:
            end(on, job)
            done.append(job.identity)
    return done


def test_while_the_storage_is_away_nothing_is_handed_out_and_nothing_lost(store: Store) -> None:
    said: list[str] = []
    on = queue(store, storage_timeout=LONG, say=said.append)
    end(on, taken(on))
    lost, running = taken(on), taken(on)
    with full_disk():
        fault(on, lost)
        assert on.next() is None, "not before it is known whether the storage answers"
        ticks(on, lambda: on.pause.away)
        assert not on.ready
        assert not on.over
        assert on.next() is None
        notice = on.pause.notice
        assert notice is not None
        assert notice.startswith("the storage does not answer (cannot write ")
        assert "giving up in 16:" in notice
        on.end(running.identity, FINISHED)  # what runs may go on, and end
        assert snapshot(on).endings == {Ending.FINISHED: 1}
        assert not store.exists(f"sweeps/tiny/ledger/{running.identity}.json")
    ticks(on, lambda: on.ready)
    assert store.exists(f"sweeps/tiny/ledger/{running.identity}.json"), "it was written later"
    assert on.pause.notice is None
    assert taken(on) is lost, "it is the first to go on"
    end(on, lost)
    rest(on)
    assert snapshot(on).endings == {Ending.FINISHED: 4}
    assert on.started == 5, "a run that goes on is not started again"
    assert [text.partition(" (")[0].partition(",")[0] for text in said] == [
        "the storage does not answer",
        "the storage answers again",
    ]
    assert not [name for name in store.names("sweeps/tiny") if name.startswith(".")]


def test_a_ledger_that_cannot_be_written_pauses_the_sweep(store: Store) -> None:
    on = queue(store, storage_timeout=LONG)
    end(on, taken(on))
    first = taken(on)
    with full_disk():
        on.end(first.identity, FINISHED)
        ticks(on, lambda: on.pause.away)
        assert on.next() is None
    ticks(on, lambda: on.ready)
    assert store.read_json(f"sweeps/tiny/ledger/{first.identity}.json")["status"] == "finished"


def test_a_storage_that_stays_away_ends_the_sweep_and_the_next_call_goes_on(store: Store) -> None:
    on = queue(store, storage_timeout=0.05)
    teacher = taken(on)
    with full_disk():
        fault(on, teacher)
        ticks(on, lambda: on.over)
    assert on.halted
    assert on.pause.lost is not None
    assert on.pause.lost.startswith("the storage did not answer for 0:00: cannot write ")
    assert snapshot(on).endings == {Ending.UNFINISHED: 4}
    assert len(rest(queue(store, storage_timeout=LONG))) == 5


def test_a_fault_that_the_storage_has_nothing_to_do_with_holds_up_one_run_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data or its node fail: the others go on, and it ends as unfinished once its waits are over."""
    monkeypatch.setattr(pause, "wait_before", lambda tries: 0.001 if tries < 3 else LONG)
    on = queue(store, storage_timeout=LONG / 10)
    end(on, taken(on))
    lost = taken(on)
    fault(on, lost)
    others = []
    while lost.state != "done":
        on.tick()
        assert not on.pause.away
        job = on.next()
        if job is lost:
            fault(on, job)
        elif job is not None:
            end(on, job)
            others.append(job)
        time.sleep(0.001)
    assert len(others) == 3
    assert on.over
    assert not on.halted
    assert snapshot(on).endings == {Ending.FINISHED: 3, Ending.UNFINISHED: 1}
    assert lost.outcome is not None
    assert lost.outcome.reason == "cannot write x: Read-only file system."


def test_students_wait_for_a_teacher_that_is_tried_again(store: Store) -> None:
    on = queue(store, storage_timeout=LONG)
    teacher = taken(on)
    for _ in range(3):
        fault(on, teacher)
        on.teachers_only = not on.teachers_only
        assert not on.over
        ticks(on, lambda: on.next() is teacher)
    assert not [job for job in on.jobs.values() if job.state == "done"]
    on.teachers_only = False
    end(on, teacher)
    assert len(rest(on)) == 4


def test_a_run_that_gets_farther_may_be_tried_as_often_as_a_new_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pause, "wait_before", lambda tries: 0.001 if tries < 3 else LONG)
    spec = sweep(cells={"alone": {"teacher": None}}, seeds=[0])
    on = queue(store, spec, storage_timeout=LONG / 10)
    job = taken(on)
    for epoch in range(6):
        ended = Outcome(Ending.UNFINISHED, "cannot write x: Read-only file system.", 0.0, epoch, {})
        on.end(job.identity, ended)
        ticks(on, lambda: on.next() is job)
    assert job.state == "issued"


def test_processes_that_die_while_the_storage_is_away_do_not_count(store: Store) -> None:
    """A file that was mapped into their memory is gone: the system ends them without a word."""
    on = queue(store, storage_timeout=LONG)
    teacher = taken(on)
    with full_disk():
        assert on.crashed(teacher.identity, "its process ended without an error message")
        assert on.next() is None, "not before it is known whether the storage answers"
        ticks(on, lambda: on.pause.away)
        assert teacher.crashes == 1
    ticks(on, lambda: on.ready)
    for _ in range(RETRIES + 1):
        assert taken(on) is teacher
        assert on.crashed(teacher.identity, "OSError: [Errno 116] Stale file handle"), "its words say so"
        ticks(on, lambda: on.ready)
    assert teacher.crashes == 1


def test_a_storage_without_any_answer_is_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    class Silent(Ledger):
        def test_storage(self) -> None:
            answers.wait()
            super().test_storage()

    monkeypatch.setattr(pause, "SILENT_AFTER", 0.01)
    spec = sweep()
    on = TrialQueue(spec, spec.plan(), Silent(store, "tiny"), slots=9, storage_timeout=LONG)
    fault(on, taken(on))
    ticks(on, lambda: on.pause.away)
    assert "no answer for 0 s" in str(on.pause.notice)
    answers.set()
    ticks(on, lambda: on.ready)


def test_what_the_driver_does_is_tried_again_too(store: Store) -> None:
    said: list[str] = []
    until_full = iter(range(3))

    def write() -> str:
        if next(until_full, None) is not None:
            with full_disk():
                store.write("x", b"x")
        store.write("x", b"x")
        return "written"

    assert try_again(write, LONG, said.append) == "written"
    assert len(said) == 3
    assert all(text.startswith(f"cannot write {store.path('x')}: ") for text in said)
    with full_disk():
        for limits in ({"timeout": 0.0}, {"timeout": 0.05}, {"timeout": LONG, "until": time.monotonic()}):
            with pytest.raises(EnvironmentFault):
                try_again(lambda: store.write("x", b"x"), say=said.append, **limits)

    def own() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        try_again(own, LONG, said.append)


def test_waits_grow_up_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert [wait_before(tries) for tries in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert wait_before(10**6) == 60
