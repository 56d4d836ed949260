"""Jobs that have not been handed out, by priority, at a cost per job that hardly grows with their number."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from ray_kd.trials.job import Job

Priority = tuple[int, ...]
"""Smaller comes first; the last number tells teachers (0) from other jobs."""
FRONT: Priority = (-1,)
"""Before all others: the job has begun already."""

Entry = tuple[Priority, int, Job]
"""Priority, number in order of arrival (which no two share), job."""


class Waiting:
    """The jobs of a trial queue that wait: which is ready and comes first, and who waits for which teacher.

    A job is ready once all teachers that it needs are trained; they wait as long as a job waits for them, and
    come right before the first of these. Jobs that run ahead of a look come after all others.

    Args:
        untrained: the teachers that a job needs and that are not trained.
    """

    def __init__(self, untrained: Callable[[Job], list[Job]]) -> None:
        self._untrained = untrained
        self._lines: dict[tuple[bool, bool], list[Entry]] = {
            (ahead, teacher): [] for ahead in (False, True) for teacher in (False, True)
        }
        self._blocked: list[Entry] = []
        self._numbers = itertools.count()
        self._place: dict[str, tuple[bool, Priority, int]] = {}
        """Waiting job -> whether it runs ahead, its priority and number. Other entries of a line are old."""
        self._students: dict[str, dict[str, Job]] = {}
        """Teacher -> the waiting jobs that need it."""
        self._missing: dict[str, dict[str, Job]] = {}
        """Waiting job -> the teachers that it lacks."""

    def add(self, job: Job, priority: Priority, ahead: bool = False) -> None:
        """Add a job with the teachers that it lacks, or move one that waits to another place."""
        known = self._place.get(job.identity)
        if known is not None and known[:2] == (ahead, priority):
            return
        if known is None:
            self._missing[job.identity] = {one.identity: one for one in self._untrained(job)}
            for need in job.needs:
                self._students.setdefault(need, {})[job.identity] = job
        self._place[job.identity] = (ahead, priority, next(self._numbers) if known is None else known[2])
        for teacher in self._missing[job.identity].values():
            place = self._place.get(teacher.identity)
            wanted = priority if priority == FRONT else (*priority[:-1], 0)
            if teacher.state == "waiting" and (place is None or (ahead, wanted) < place[:2]):
                self.add(teacher, wanted, ahead)
        self._line_up(job)

    def trained(self, teacher: str) -> None:
        """A teacher is trained: the jobs that lacked nothing else are ready."""
        for job in self.students(teacher):
            missing = self._missing[job.identity]
            if missing.pop(teacher, None) is not None and not missing:
                self._line_up(job)

    def students(self, teacher: str) -> list[Job]:
        """The waiting jobs that need a teacher."""
        return list(self._students.get(teacher, {}).values())

    def remove(self, job: Job) -> None:
        """A job waits no longer, and neither do teachers that no other job needs and that serve no trial."""
        if self._place.pop(job.identity, None) is None:
            return
        missing = self._missing.pop(job.identity)
        for need in job.needs:
            students = self._students[need]
            del students[job.identity]
            if not students and need in missing and missing[need].trial is None:
                self.remove(missing[need])

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
        """The job of a trial that would come first of those that lack a teacher; None: there is none."""
        while self._blocked:
            _, number, job = self._blocked[0]
            place = self._place.get(job.identity)
            if place is not None and place[2] == number and self._missing[job.identity]:
                return job
            heapq.heappop(self._blocked)
        return None

    def _line_up(self, job: Job) -> None:
        ahead, priority, number = self._place[job.identity]
        if not self._missing[job.identity]:
            heapq.heappush(self._lines[ahead, job.teaches], (priority, number, job))
        elif job.trial is not None:
            heapq.heappush(self._blocked, (priority, number, job))

    def _head(self, line: list[Entry], ahead: bool) -> Entry | None:
        while line:
            priority, number, job = line[0]
            if self._place.get(job.identity) == (ahead, priority, number):
                return line[0]
            heapq.heappop(line)
        return None
