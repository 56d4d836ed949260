"""Running counts of a sweep, so that showing its state costs the same whatever the number of its trials."""

from __future__ import annotations

import heapq
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from ray_kd.config.ending import Ending
from ray_kd.trials.job import Job


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float:
        return self.total / self.count


@dataclass
class Tally:
    """Counts over jobs; the queue tells it of every job that it adds, starts, ends or hands out again.

    Attributes:
        trials: jobs that serve trials.
        endings: how many of these have ended, in which way.
        running: started jobs of trials, and of teachers, by identity.
        active: jobs that are handed out and have not ended.
        tasks: names of the tasks of all trials.
    """

    sign: float = 1.0
    trials: int = 0
    endings: Counter[Ending] = field(default_factory=Counter)
    running: dict[str, Job] = field(default_factory=dict)
    teachers: dict[str, Job] = field(default_factory=dict)
    active: int = 0
    tasks: set[str] = field(default_factory=set)
    _epochs: Counter[str] = field(default_factory=Counter)
    """Cell -> epochs of its jobs that have not ended."""
    _all_epochs: int = 0
    _paces: dict[str, _Mean] = field(default_factory=lambda: defaultdict(_Mean))
    _results: dict[str, _Mean] = field(default_factory=lambda: defaultdict(_Mean))
    _best: list[tuple[float, int, str]] = field(default_factory=list)
    _paced: float = 0.0
    """Seconds that are left of the cells whose pace is known."""
    _unpaced: int = 0
    """Epochs that are left of the other cells."""
    _pace_sum: float = 0.0
    _paced_tasks: set[str] = field(default_factory=set)

    @property
    def left(self) -> int:
        """Jobs of trials that have not ended."""
        return self.trials - self.endings.total()

    def add(self, job: Job) -> None:
        """A job joined the queue."""
        if job.trial is not None:
            self.trials += 1
            self._all_epochs += job.spec.training.epochs
            self.tasks.add(job.spec.task.component_name)
            self._change(job.cell, job.spec.training.epochs)

    def issue(self, job: Job) -> None:
        """A job was handed out."""
        self.active += 1

    def run(self, job: Job) -> None:
        """A job has started in its slot."""
        (self.teachers if job.trial is None else self.running)[job.identity] = job

    def back(self, job: Job) -> None:
        """A job that was handed out is in no slot any more."""
        self.active -= 1
        self.running.pop(job.identity, None)
        self.teachers.pop(job.identity, None)

    def end(self, job: Job, value: float | None) -> None:
        """A job ended; ``value`` is its validation metric, if it counts for the best cell."""
        outcome = job.outcome
        assert outcome is not None
        if job.trial is None:
            return
        self.endings[outcome.status] += 1
        self._change(job.cell, -job.spec.training.epochs)
        if outcome.epochs and outcome.seconds:
            self._pace(job.cell, outcome.seconds / outcome.epochs)
            self._paced_tasks.add(job.spec.task.component_name)
        if value is not None and outcome.status is Ending.FINISHED and job.phase != "control":
            mean = self._results[job.cell]
            mean.add(value)
            heapq.heappush(self._best, (-self.sign * mean.value, -mean.count, job.cell))

    def best(self) -> tuple[str, float, int] | None:
        """The cell with the best mean over its finished trials: its name, the mean, how many there are."""
        while self._best:
            _, count, cell = self._best[0]
            mean = self._results[cell]
            if -count == mean.count:
                return cell, mean.value, mean.count
            heapq.heappop(self._best)  # the cell has more trials by now
        return None

    def seconds_left(self, later: int, slots: int) -> float | None:
        """Estimated seconds of training that are left on all slots; None while nothing has been measured.

        Cells without a pace are taken as the mean of the others. That holds within a task, not between tasks:
        so None, too, until a trial of each task has ended.

        Args:
            later: trials that are not known yet.
        """
        running = [*self.running.values(), *self.teachers.values()]
        if self._paces and self.tasks - self._paced_tasks:
            return None
        if self._paces:
            overall = self._pace_sum / len(self._paces)
        else:
            known = [
                (time.monotonic() - job.began) / job.epoch
                for job in self.running.values()
                if job.epoch and job.began is not None
            ]
            if not known:
                return None
            overall = sum(known) / len(known)
        total = self._paced + self._unpaced * overall
        total += later * overall * self._all_epochs / max(1, self.trials)
        longest = 0.0
        for job in running:
            pace = self._paces[job.cell].value if job.cell in self._paces else overall
            total += pace * (job.spec.training.epochs if job.trial is None else 0) - pace * job.epoch
            longest = max(longest, (job.spec.training.epochs - job.epoch) * pace)
        return max(total / max(1, slots), longest)

    def _change(self, cell: str, epochs: int) -> None:
        self._epochs[cell] += epochs
        if cell in self._paces:
            self._paced += epochs * self._paces[cell].value
        else:
            self._unpaced += epochs

    def _pace(self, cell: str, seconds: float) -> None:
        if cell in self._paces:
            before = self._paces[cell].value
            self._paced -= self._epochs[cell] * before
            self._pace_sum -= before
        else:
            self._unpaced -= self._epochs[cell]
        self._paces[cell].add(seconds)
        self._paced += self._epochs[cell] * self._paces[cell].value
        self._pace_sum += self._paces[cell].value
