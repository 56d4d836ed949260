"""QueueSearcher: hands Tune the jobs of a trial queue one by one, and tells the queue how they ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from ray_kd.cluster.places import Places
from ray_kd.config.ending import Ending
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Outcome
from ray_kd.trials.trial_queue import TrialQueue

MOST_WARM = 8
"""The most warm-ups: on a large cluster, slots that wait for a teacher are left free for other users."""


class QueueSearcher(Searcher):
    """A Tune searcher that suggests the jobs of a trial queue.

    A sweep resumes from its ledger and the runs' summaries, so there is nothing to save here. Tune's own
    snapshots are periodic, and a kill at the wrong moment leaves an empty one.

    A slot without a job (while all students wait for a teacher) gets a *warm-up*: a Tune trial that starts
    an actor, loads the dataset, and ends when there is a job for the actor.

    Args:
        configure: makes the Tune config of a job (False) or of a warm-up for it (True).
        places: the nodes, some of which may not be ready.

    Attributes:
        tick: called with every question for a job. While no Tune trial is left and none may start, since the
            storage is away, Tune calls nothing else.
    """

    def __init__(
        self,
        queue: TrialQueue,
        configure: Callable[[Job, bool], dict[str, Any]],
        places: Places,
    ) -> None:
        super().__init__()
        self.queue, self.configure, self.places = queue, configure, places
        self.tick: Callable[[], None] = queue.tick
        self._identities: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        self._warm: set[str] = set()
        self._warmed = 0

    def __reduce__(self) -> Any:
        return Searcher, ()  # Tune pickles it into a snapshot that nobody reads

    def job_of(self, trial_id: str) -> Job | None:
        """The job of a Tune trial; None for a warm-up."""
        identity = self._identities.get(trial_id)
        return None if identity is None else self.queue.jobs[identity]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self.tick()
        if self.queue.over:
            return str(Searcher.FINISHED)
        taken = self.queue.active + len(self._warm)
        if taken >= self.queue.slots + self.queue.ahead:
            return None
        job = self.queue.next()
        if job is not None:
            self._identities[trial_id] = job.identity
            return self.configure(job, False)
        waiting = self.queue.waiting
        full = taken >= self.queue.slots or self._warmed >= min(self.queue.slots, MOST_WARM)
        if self.queue.over or waiting is None or full:
            return None
        self._warm.add(trial_id)
        self._warmed += 1
        return self.configure(waiting, True)

    def may_end(self, trial_id: str) -> bool:
        """Whether a Tune trial is a warm-up that should end: a job needs its actor, or none is left."""
        return trial_id in self._warm and (self.queue.ready or self.queue.over)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self._identities:
            identity, waits = self._identities[trial_id], result.get("waits")
            self.queue.progress(identity, result["epoch"], result.get("value"), waits)

    def on_error(self, trial_id: str, reason: str) -> None:
        """Note why a trial's process failed; called before its ``on_trial_complete``."""
        self._errors[trial_id] = reason

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._warm.discard(trial_id)
        job = self.job_of(trial_id)
        lost = error or result is None
        reason = self._errors.pop(trial_id, "its process ended without an error message")
        why = self.places.unfit(reason, job is None or job.state == "running") if lost else None
        if job is None or job.state == "done":
            return
        identity = job.identity
        if result is None or lost:
            self.queue.crashed(identity, reason) if why is None else self.places.moved(job, why)
            return
        self.queue.progress(identity, result["epoch"], result.get("value"))
        if "summary" in result:
            self.queue.end(identity, Outcome.of(json.loads(result["summary"])))
        else:
            options = self.queue.sweep.scheduler
            reason = f"stopped by {options.name if options else 'a scheduler'} after epoch {result['epoch']}"
            best = {} if job.best is None else {self.queue.plan.metric_of(job.spec): job.best}
            seconds = float(result.get("time_total_s") or 0.0)
            self.queue.end(identity, Outcome(Ending.STOPPED, reason, seconds, result["epoch"], best))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: see the class."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see the class."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save: see the class."""
