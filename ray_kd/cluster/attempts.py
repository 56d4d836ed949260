"""The attempts to train what a sweep lacks: one, unless the machine fails the driver itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from ray_kd.cluster.quiet import quiet
from ray_kd.config.faults import environment_fault
from ray_kd.config.plan import Plan
from ray_kd.config.screen import show
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Lock, Store
from ray_kd.teacher.load import is_whole
from ray_kd.training.other_lengths import length_notes
from ray_kd.trials.ledger import Ledger
from ray_kd.trials.pause import Result, try_again
from ray_kd.trials.trial_queue import TrialQueue


@dataclass
class Attempts:
    """Reads what has ended of a sweep, and trains the rest.

    Attributes:
        plan: the sweep's, before any trial was added to it; default: it is planned.
        until: when to stop (of ``time.monotonic``); None: never.
        started: how many trials and teachers were started.
    """

    sweep: SweepSpec
    store: Store
    retry_failed: bool
    storage_timeout: float
    screen: Console | None
    until: float | None
    plan: Plan | None = None
    queue: TrialQueue | None = None
    started: int = 0

    def say(self, text: str) -> None:
        """Show a sentence."""
        if self.screen is not None:
            show(f"{self.sweep.name}: {text}", self.screen)

    def persist(self, action: Callable[[], Result]) -> Result:
        """Call ``action`` until no fault of the machine prevents it, or for ``storage_timeout`` seconds."""
        return try_again(action, self.storage_timeout, self.say, self.until)

    def train(self, address: str | None) -> TrialQueue:
        """Train what has not ended; raises what interrupted that, unless the sweep was to end anyway."""
        if self.queue is not None:
            self.queue.ledger.flush()
        queue = self.queue = self._begin()
        self.retry_failed = False  # they were taken into this queue
        _say_before(queue, self.store, self.screen)
        try:
            _train(queue, address, self.screen, self.until)
        except Exception as error:
            if not queue.halted or environment_fault(error) is None:
                raise
        finally:
            self.started += queue.started
        return queue

    def _begin(self) -> TrialQueue:
        ledger = Ledger(self.store, self.sweep.name)
        ledger.load()
        while True:
            plan, self.plan = self.plan or self.sweep.plan(), None  # a queue adds to its plan
            queue = TrialQueue(
                self.sweep,
                plan,
                ledger,
                retry_failed=self.retry_failed,
                storage_timeout=self.storage_timeout,
                say=self.say,
            )
            if queue.over or not _forget_damaged_teachers(queue, self.store):  # and then theirs
                return queue


def _say_before(queue: TrialQueue, store: Store, screen: Console | None) -> None:
    """What a person should know before trials start: runs of other lengths, what stands declared."""
    if screen is not None:
        specs = [job.spec for job in queue.jobs.values() if job.state != "done"]
        for line in (*length_notes(specs, store), *queue.remarks()):
            show(f"{queue.sweep.name}: {line}", screen)


def _train(queue: TrialQueue, address: str | None, screen: Console | None, until: float | None) -> None:
    if queue.over:
        _write_plan(queue)
        return
    quiet()  # before the next import, which imports Ray
    from ray_kd.cluster.execute import execute

    execute(queue, address, screen, lambda: _write_plan(queue), until)


def _forget_damaged_teachers(queue: TrialQueue, store: Store) -> bool:
    """Train teachers again whose weight files are damaged, before a run loads them."""
    seen, lost = set(), set()
    for job in queue.jobs.values():
        for name in job.spec.needed_teachers() if job.state != "done" else ():
            run = job.spec.teacher_run(name).identity() if job.spec.teachers[name].weights is None else ""
            outcome = queue.jobs[run].outcome if run in queue.jobs else None
            if outcome is not None and outcome.status == "finished" and run not in seen:
                seen.add(run)
                if not is_whole(job.spec, name, store):
                    lost.add(run)
    for run in lost:
        with Lock(store, f"runs/{run}/lock", what=f"teacher {run}"):
            store.delete(f"runs/{run}/summary.json")  # a teacher without weights has not finished
    return bool(lost)


def _write_plan(queue: TrialQueue) -> None:
    queue.ledger.forget_nodes()
    queue.ledger.write_design(queue.looks.design)  # before the plan, by which a later call reads it
    queue.ledger.write_plan(queue.plan.to_json())
    queue.ledger.write_sweep(queue.sweep.to_yaml())
