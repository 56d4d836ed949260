"""Jobs that have not been handed out, by priority, at a cost per job that hardly grows with their number."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from ray_kd.trials.job import Job

Priority = tuple[int, ...]
"""Smaller comes first."""
FRONT: Priority = (-1,)
"""Before all others: the job has begun already."""

Entry = tuple[Priority, int, Job]
"""Priority, number in order of arrival (which no two share), job."""


class Waiting:
    """The jobs of a trial queue that wait: which is ready and comes first, and who waits for which teacher.

    A job is ready once all teachers that it needs are trained, a teacher while a job waits for it; it comes
    before all jobs of the same look. Jobs that run ahead of a look come after all others.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[bool, bool], list[Entry]] = {
            (ahead, teacher): [] for ahead in (False, True) for teacher in (False, True)
        }
        self._blocked: list[Entry] = []
        self._numbers = itertools.count()
        self._place: dict[str, tuple[bool, Priority, int]] = {}
        """Waiting job -> whether it runs ahead, its priority and number. Other entries of a line are old."""
        self._students: dict[str, dict[str, Job]] = {}
        """Teacher -> the waiting jobs that need it."""
        self._missing: dict[str, set[str]] = {}
        """Waiting job -> the teachers that it lacks."""

    def __contains__(self, job: Job) -> bool:
        return job.identity in self._place

    def add(self, job: Job, priority: Priority, ahead: bool = False, missing: Iterable[Job] = ()) -> None:
        """Add a job of a trial, or move one that waits to another place.

        Args:
            missing: the teachers that it needs and that are not trained.
        """
        known = self._place.get(job.identity)
        if known is not None and known[:2] == (ahead, priority):
            return
        if known is None:
            self._missing[job.identity] = set()
            for need in job.needs:
                self._students.setdefault(need, {})[job.identity] = job
        self._put(job, priority, ahead)
        for teacher in missing:
            self._missing[job.identity].add(teacher.identity)
            self.raise_teacher(teacher, priority, ahead)
        self._line_up(job)

    def raise_teacher(self, teacher: Job, priority: Priority, ahead: bool) -> None:
        """Let a teacher that waits come no later than its students do."""
        known = self._place.get(teacher.identity)
        wanted = (ahead, (priority[0], 0) if priority != FRONT else FRONT)
        if teacher.state == "waiting" and (known is None or wanted < known[:2]):
            self._put(teacher, wanted[1], ahead)
            self._line_up(teacher)

    def trained(self, teacher: str) -> None:
        """A teacher is trained: the jobs that lacked nothing else are ready."""
        for job in self._students.get(teacher, {}).values():
            missing = self._missing[job.identity]
            if teacher in missing:
                missing.remove(teacher)
                if not missing:
                    self._line_up(job)

    def students(self, teacher: str) -> list[Job]:
        """The waiting jobs that need a teacher."""
        return list(self._students.get(teacher, {}).values())

    def remove(self, job: Job) -> None:
        """A job waits no longer."""
        if self._place.pop(job.identity, None) is not None and job.trial is not None:
            del self._missing[job.identity]
            for need in job.needs:
                del self._students[need][job.identity]

    def first(self, teachers_only: bool = False) -> Job | None:
        """The ready job that comes first; it stays where it is. None: no job is ready."""
        for ahead in (False, True):
            kinds = (True,) if teachers_only else (True, False)
            heads = [
                head for kind in kinds if (head := self._head(self._lines[ahead, kind], ahead)) is not None
            ]
            if heads:
                return min(heads, key=lambda entry: entry[:2])[2]
        return None

    def first_blocked(self) -> Job | None:
        """The job that would come first of those that lack a teacher; None: there is none."""
        while self._blocked:
            _, number, job = self._blocked[0]
            place = self._place.get(job.identity)
            if place is not None and place[2] == number and self._missing.get(job.identity):
                return job
            heapq.heappop(self._blocked)
        return None

    def _put(self, job: Job, priority: Priority, ahead: bool) -> None:
        known = self._place.get(job.identity)
        self._place[job.identity] = (ahead, priority, next(self._numbers) if known is None else known[2])

    def _line_up(self, job: Job) -> None:
        ahead, priority, number = self._place[job.identity]
        line = self._blocked if self._missing.get(job.identity) else self._lines[ahead, job.trial is None]
        heapq.heappush(line, (priority, number, job))

    def _head(self, line: list[Entry], ahead: bool) -> Entry | None:
        while line:
            priority, number, job = line[0]
            if self._place.get(job.identity) == (ahead, priority, number):
                if job.trial is not None or self._students.get(job.identity):
                    return line[0]
                del self._place[job.identity]  # no job waits for this teacher; one that comes raises it again
            heapq.heappop(line)
        return None
