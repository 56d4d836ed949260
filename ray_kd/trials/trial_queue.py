"""The trial queue of a sweep: which job is next, given which have ended. It does not import Ray.

Teachers come first, since most trials need them, each after those that it learns from; then candidates of
searches; then controls and compared trials, long ones before short ones and seed by seed, so that an
interrupted sweep has complete pairs. The winner of a cell's search is added as soon as all candidates of the
cell have ended.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ray_kd.config.cells import Cell, searched_name
from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError
from ray_kd.config.faults import fault_in
from ray_kd.config.plan import Plan, Trial, TrialMaker, teachers_of
from ray_kd.config.sweep import SweepSpec
from ray_kd.trials.job import Job, needs_of
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.search import Candidate, CellSearch

RETRIES = 3
"""How often a job whose worker process died is resumed from its checkpoint."""


@dataclass
class TrialQueue:
    """The jobs of a sweep, and which of them is next.

    Args:
        plan: the sweep's plan; candidates and winners are added to it as they become known.
        ledger: the sweep's ledger, after ``load``.
        slots: how many jobs may be active at the same time.
        retry_failed: train trials again that failed in an earlier invocation of the sweep.
    """

    sweep: SweepSpec
    plan: Plan
    ledger: Ledger
    slots: int = 1
    retry_failed: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    searches: list[CellSearch] = field(default_factory=list)
    started: int = 0
    """How many jobs this queue has handed out."""
    halted: bool = False
    """Set it to hand out no more jobs."""
    teachers_only: bool = False
    """Set it to hand out teachers only, so that their targets are stored before the first student starts."""
    _queue: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.maker = TrialMaker(self.sweep)
        self._cells = {cell.name: cell for cell in self.sweep.all_cells()}
        self._take(self.plan.trials)
        for search in self.sweep.search:
            for name in self.sweep.searched_by(search):
                self._open_search(CellSearch(self._cells[name], search, self.plan.mode))
        self._advance_searches()

    # Which job is next

    def next(self) -> Job | None:
        """The next job to start; None while there is none (see ``over``)."""
        if self.halted or self.active >= self.slots:
            return None
        job = self._first_ready()
        wanted = job is None or job.phase not in ("teacher", "search")
        if wanted and not self.teachers_only and self._propose():
            job = self._first_ready()
        if job is not None:
            self._queue.remove(job)
            job.state = "issued"
            self.started += job.crashes == 0
        return job

    @property
    def active(self) -> int:
        """How many jobs are handed out and have not ended."""
        return sum(job.state in ("issued", "running") for job in self.jobs.values())

    @property
    def ready(self) -> bool:
        """Whether ``next`` would return a job if a slot were free."""
        learning = not self.teachers_only and any(s.may_propose(self.slots) for s in self.searches)
        return not self.halted and (learning or self._first_ready() is not None)

    @property
    def waiting(self) -> Job | None:
        """The first student's job that waits in the queue; None: there is none."""
        return next((job for job in self._queue if job.trial is not None and not self.teachers_only), None)

    @property
    def over(self) -> bool:
        """Whether no job is left: all have ended, or wait for a run that is unfinished."""
        if self.halted or self.teachers_only:
            return self.halted or (self.active == 0 and self._first_ready() is None)
        ended = all(job.state == "done" for job in self.jobs.values() if job.trial is not None)
        return ended and (all(search.complete for search in self.searches) or self._stuck)

    @property
    def _stuck(self) -> bool:
        """Whether a search waits for candidates that are unfinished."""
        unfinished = (job.outcome is not None and not job.outcome.status.final for job in self.jobs.values())
        return not self.ready and any(unfinished)

    def _first_ready(self) -> Job | None:
        needed = self._needed_teachers()
        for job in self._queue:
            if job.trial is None and job.identity not in needed:
                continue  # all its students have ended
            if job.trial is not None and self.teachers_only:
                continue
            if all(self._is_trained(need) for need in job.needs):
                return job
        return None

    def _needed_teachers(self) -> set[str]:
        """Identities of the teachers that waiting students load, and that train those of them that wait."""
        students = (job for job in self._queue if job.trial is not None)
        found = list(dict.fromkeys(need for job in students for need in job.needs))
        for identity in found:  # grows as it is walked
            if self.jobs[identity].state == "waiting":
                found += [need for need in self.jobs[identity].needs if need not in found]
        return set(found)

    def _is_trained(self, identity: str) -> bool:
        outcome = self.jobs[identity].outcome
        return outcome is not None and outcome.status is Ending.FINISHED

    # What happened to a job

    def running(self, identity: str) -> None:
        """A job has started in its slot."""
        job = self.jobs[identity]
        job.state, job.began = "running", time.monotonic()

    def progress(self, identity: str, epoch: int, value: float | None, waits: str | None = None) -> None:
        """A job reported an epoch, or what it waits for."""
        job = self.jobs[identity]
        job.epoch, job.waits = epoch, waits
        if value is not None:
            choose = max if self.plan.mode == "max" else min
            job.value, job.best = value, value if job.best is None else choose(job.best, value)

    def end(self, identity: str, outcome: Outcome) -> None:
        """A job ended: block the students of a failed teacher, and advance the searches."""
        job = self.jobs[identity]
        self._settle(job, outcome)
        self._settle_without_teacher()
        self._advance_searches()

    def crashed(self, identity: str, reason: str) -> bool:
        """The process of a job died; returns whether the job will be started again."""
        job = self.jobs[identity]
        earlier = None
        with contextlib.suppress(OSError):  # the storage cannot be read, so no summary is found
            earlier = self.ledger.outcomes([identity]).get(identity)
        if earlier is not None:  # its process died after the run had ended
            self.end(identity, earlier)
            return False
        job.crashes += 1
        if job.crashes <= RETRIES:
            job.state, job.began = "waiting", None
            self._queue.insert(0, job)
            return True
        fault = fault_in(reason)
        if fault is not None:
            self.end(identity, Outcome(Ending.UNFINISHED, str(fault), 0.0, job.epoch, {}))
            return False
        path = f"runs/{identity}/error.txt"
        self.ledger.keep(path, reason.encode())
        last = (reason.strip().splitlines() or ["no reason given"])[-1]
        text = f"its worker process died {job.crashes} times; the last time: {last[:300]}"
        self.end(identity, Outcome(Ending.FAILED, text, 0.0, job.epoch, {}, path))
        return False

    def _settle(self, job: Job, outcome: Outcome) -> None:
        job.state, job.outcome = "done", outcome
        if job in self._queue:
            self._queue.remove(job)
        if job.trial is not None or not self._is_trained(job.identity):
            self.ledger.write(job.identity, job.cell, job.spec.seed, job.phase, outcome)

    def _settle_without_teacher(self) -> None:
        """Block the runs whose teacher failed or is blocked; those of an unfinished one are unfinished."""
        for job in list(self._queue):  # teachers first, each after its own
            for need in job.needs:
                teacher = self.jobs[need]
                if teacher.outcome is not None and not self._is_trained(need):
                    open_yet = teacher.outcome.status is Ending.UNFINISHED
                    ending = Ending.UNFINISHED if open_yet else Ending.BLOCKED
                    how = "failed" if teacher.outcome.status.final else f"is {teacher.outcome.status}"
                    reason = f"its teacher ({teacher.spec.name}) {how}: {teacher.outcome.reason}"
                    self._settle(job, Outcome(ending, reason, 0.0, 0, {}, teacher.outcome.error))
                    break

    # Adding trials

    def _take(self, trials: Iterable[Trial]) -> None:
        """Add the jobs that these trials need, and note those that have ended in an earlier invocation."""
        trials = list(trials)
        new: dict[str, Job] = {}
        for teacher in teachers_of(trials):
            identity = teacher.identity()
            if identity not in self.jobs:
                new[identity] = Job(identity, teacher, None, needs_of(teacher))
        needs: dict[str, tuple[str, ...]] = {}
        for trial in trials:
            if trial.identity not in self.jobs and trial.identity not in new:
                key = f"{trial.cell} {trial.axes}"  # a teacher does not depend on the seed
                needs[key] = needs.get(key) or needs_of(trial.spec)
                new[trial.identity] = Job(trial.identity, trial.spec, trial, needs[key])
        self.jobs.update(new)
        self._queue = sorted([*self._queue, *new.values()], key=_order)
        earlier = self.ledger.outcomes(new)
        for identity, outcome in earlier.items():
            if outcome.status is Ending.FAILED and self.retry_failed:
                self.ledger.stale.add(identity)
            else:
                self._settle(new[identity], outcome)
        for identity in new.keys() & self.ledger.stale:
            self.ledger.forget(identity)
        known = {teacher.identity() for teacher in self.plan.teachers}
        self.plan.teachers += [
            job.spec for job in new.values() if job.trial is None and job.identity not in known
        ]
        self._settle_without_teacher()

    # Searches

    def _open_search(self, search: CellSearch) -> None:
        self.searches.append(search)
        for overrides in search.fixed():
            candidate = search.add(overrides)
            trials = self._candidate_trials(search, candidate)
            candidate.identities = tuple(trial.identity for trial in trials)
        if search.search.method == "optuna":
            self._recall(search)

    def _recall(self, search: CellSearch) -> None:
        """Add the candidates of an earlier invocation of the sweep whose runs' identities are unchanged."""
        former: dict[int, dict[int, dict[str, Any]]] = {}
        for entry in (self.ledger.read_plan() or {}).get("trials", []):
            if entry.get("phase") == "search" and entry.get("cell") == search.cell.name:
                former.setdefault(int(entry.get("candidate") or 0), {})[entry["seed"]] = entry
        for index in sorted(former):
            entries = former[index]
            axes = next(iter(entries.values()))["axes"]
            overrides = {key: value for key, value in axes.items() if key in search.search.space}
            if not search.former(overrides) or len(search.candidates) >= search.search.budget:
                continue
            trials = self._candidate_trials(search, Candidate(len(search.candidates), overrides))
            if all(entries.get(trial.seed, {}).get("identity") == trial.identity for trial in trials):
                self._add_candidate(search, search.add(overrides), trials)

    def _candidate_trials(self, search: CellSearch, candidate: Candidate) -> list[Trial]:
        return [
            self.maker.make(search.cell, seed, "search", candidate.overrides, candidate.index)
            for seed in search.search.seeds
        ]

    def _add_candidate(self, search: CellSearch, candidate: Candidate, trials: list[Trial]) -> None:
        candidate.identities = tuple(trial.identity for trial in trials)
        self._add(trials, search.cell.name, "search")

    def _add(self, trials: list[Trial], cell: str, phase: str) -> None:
        """Add trials that became known to the plan, and count them off its later trials."""
        later = []
        for entry in self.plan.later:
            if (entry.cell, entry.phase) == (cell, phase):
                entry = replace(entry, count=max(0, entry.count - len(trials)))
            later.append(entry)
        self.plan.later = [entry for entry in later if entry.count]
        self.plan.trials += trials
        self._take(trials)

    def _propose(self) -> bool:
        """Ask the learning search with the fewest candidates for the next; returns whether there is one."""
        learning = [search for search in self.searches if search.search.method == "optuna"]
        for search in sorted(learning, key=lambda one: len(one.candidates)):
            while (candidate := search.propose(self.slots)) is not None:
                try:
                    trials = self._candidate_trials(search, candidate)
                except UserError:
                    search.end(candidate, None)  # the combination of values is no valid run
                    continue
                self._add_candidate(search, candidate, trials)
                self.ledger.write_plan(self.plan.to_json())
                self._advance_searches()
                return True
        return False

    def _advance_searches(self) -> None:
        """Note the values of candidates that ended; add the winner's trials of each complete search."""
        for search in self.searches:
            for candidate in search.candidates:
                self._value(search, candidate)
            name = searched_name(search.cell.name)
            if search.complete and any(entry.cell == name for entry in self.plan.later):
                self._add_winner(search, name)

    def _value(self, search: CellSearch, candidate: Candidate) -> None:
        outcomes = [self.jobs[identity].outcome for identity in candidate.identities]
        ended = [outcome for outcome in outcomes if outcome is not None]
        open_yet = len(ended) < len(outcomes) or any(one.status is Ending.UNFINISHED for one in ended)
        if candidate.ended or not outcomes or open_yet:
            return
        metric = self.plan.metric_of(self.jobs[candidate.identities[0]].spec)
        values = [outcome.best.get(metric) for outcome in ended]
        known = [value for value in values if value is not None]
        if all(outcome.status is Ending.FINISHED for outcome in ended) and len(known) == len(values):
            search.end(candidate, sum(known) / len(known))
            return
        stopped = [outcome for outcome in ended if outcome.status is Ending.STOPPED]
        partial = (stopped[0].epochs, sum(known) / len(known)) if stopped and known else None
        search.end(candidate, None, partial)

    def _add_winner(self, search: CellSearch, name: str) -> None:
        winner = search.winner()
        if winner is None:
            self.plan.later = [entry for entry in self.plan.later if entry.cell != name]
            self.plan.notes.append(
                f"'{search.cell.name}' has no searched cell: none of its candidates finished."
            )
        else:
            overrides = {**search.cell.overrides, **winner.overrides}
            cell = Cell(name=name, overrides=overrides, axes={**search.cell.axes, **winner.overrides})
            trials = [self.maker.make(cell, seed, "compare") for seed in self.sweep.seeds]
            self._add(trials, name, "compare")
        self.ledger.write_plan(self.plan.to_json())


def _order(job: Job) -> tuple[int, int, int]:
    """Teachers, then searches (their winners come after), then long trials first, seed by seed."""
    if job.trial is None:
        return 0, 0, 0
    if job.trial.phase == "search":
        return 1, job.trial.candidate or 0, 0
    return 2, -job.spec.training.epochs, job.trial.seed
