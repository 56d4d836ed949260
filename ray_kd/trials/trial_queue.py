"""The trial queue of a sweep: what is to run next, given what has ended. It knows nothing of Ray.

Teachers come first, since most trials need them; then candidates of searches, controls and compared
trials, long ones before short ones and seed by seed, so that an interrupted sweep has whole pairs. The
winner of a cell's search joins as soon as its candidates have ended.
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
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.search import Candidate, CellSearch

RETRIES = 3
"""How often a trial whose worker process died starts again from its checkpoint."""


@dataclass
class TrialQueue:
    """What a sweep has still to do.

    Args:
        sweep: the sweep.
        plan: its plan; candidates and winners are added to it as they become known.
        ledger: its ledger, loaded.
        slots: how many runs may be out at once.
        retry_failed: failed trials of an earlier run of the sweep count as missing.
    """

    sweep: SweepSpec
    plan: Plan
    ledger: Ledger
    slots: int = 1
    retry_failed: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    searches: list[CellSearch] = field(default_factory=list)
    started: int = 0
    """Trials and teachers that were handed out by this queue."""
    halted: bool = False
    """Set it to hand out nothing more."""
    teachers_only: bool = False
    """Set it to hand out teachers alone, whose answers are stored before the first student starts."""
    _queue: list[Job] = field(default_factory=list)
    _teacher_names: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.maker = TrialMaker(self.sweep)
        self._cells = {cell.name: cell for cell in self.sweep.all_cells()}
        self._take(self.plan.trials)
        for search in self.sweep.search:
            for name in self.sweep.searched_by(search):
                self._open_search(CellSearch(self._cells[name], search, self.plan.mode))
        self._advance_searches()

    # What there is to do

    def next(self) -> Job | None:
        """The next run to start; None while there is none (see ``over``)."""
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
        """How many runs are out."""
        return sum(job.state in ("issued", "running") for job in self.jobs.values())

    @property
    def ready(self) -> bool:
        """Whether ``next`` would give a run if there were a place."""
        learning = not self.teachers_only and any(s.may_propose(self.slots) for s in self.searches)
        return not self.halted and (learning or self._first_ready() is not None)

    @property
    def waiting(self) -> Job | None:
        """The first run that waits for another to end; None: there is none."""
        return next((job for job in self._queue if job.trial is not None and not self.teachers_only), None)

    @property
    def over(self) -> bool:
        """Whether nothing is left: all has ended, or what has not waits for a run that is unfinished."""
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
        needed = {need for job in self._queue for need in job.needs}
        for job in self._queue:
            if job.trial is None and job.identity not in needed:
                continue  # all that it taught has ended already
            if job.trial is not None and self.teachers_only:
                continue
            if all(self._is_trained(need) for need in job.needs):
                return job
        return None

    def _is_trained(self, identity: str) -> bool:
        outcome = self.jobs[identity].outcome
        return outcome is not None and outcome.status is Ending.FINISHED

    # What happens

    def running(self, identity: str) -> None:
        """A run has started on its slot."""
        job = self.jobs[identity]
        job.state, job.began = "running", time.monotonic()

    def progress(self, identity: str, epoch: int, value: float | None, waits: str | None = None) -> None:
        """A run reported an epoch, or what it waits for."""
        job = self.jobs[identity]
        job.epoch, job.waits = epoch, waits
        if value is not None:
            choose = max if self.plan.mode == "max" else min
            job.value, job.best = value, value if job.best is None else choose(job.best, value)

    def end(self, identity: str, outcome: Outcome) -> None:
        """A run ended; all that hangs on it follows."""
        job = self.jobs[identity]
        self._settle(job, outcome)
        self._settle_without_teacher()
        self._advance_searches()

    def crashed(self, identity: str, reason: str) -> bool:
        """The process of a run died; True when it will be started again."""
        job = self.jobs[identity]
        earlier = None
        with contextlib.suppress(OSError):  # the storage does not answer: it says nothing of an end
            earlier = self.ledger.outcomes([identity]).get(identity)
        if earlier is not None:  # it died after its last breath
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
        """A trial whose teacher failed is blocked; one whose teacher is unfinished is so itself."""
        for job in list(self._queue):
            for need in job.needs:
                teacher = self.jobs[need]
                if teacher.outcome is not None and not self._is_trained(need):
                    failed = teacher.outcome.status.final
                    reason = f"its teacher ({teacher.spec.name}) {'failed' if failed else 'is unfinished'}: "
                    ending = Ending.BLOCKED if failed else Ending.UNFINISHED
                    outcome = Outcome(ending, f"{reason}{teacher.outcome.reason}", 0.0, 0, {})
                    self._settle(job, replace(outcome, error=teacher.outcome.error))
                    break

    # Taking trials in

    def _take(self, trials: Iterable[Trial]) -> None:
        """Make the jobs that these trials need, and settle those that ended earlier."""
        trials = list(trials)
        new: dict[str, Job] = {}
        for teacher in teachers_of(trials):
            identity = teacher.identity()
            if identity not in self.jobs:
                new[identity] = Job(identity, teacher, None)
        for trial in trials:
            if trial.identity not in self.jobs and trial.identity not in new:
                new[trial.identity] = Job(trial.identity, trial.spec, trial, self._needs(trial))
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

    def _needs(self, trial: Trial) -> tuple[str, ...]:
        needs = []
        for name in trial.spec.needed_teachers():
            if trial.spec.teachers[name].weights is None:
                key = (f"{trial.cell} {trial.axes}", name)
                if key not in self._teacher_names:
                    self._teacher_names[key] = trial.spec.teacher_run(name).identity()
                needs.append(self._teacher_names[key])
        return tuple(dict.fromkeys(needs))

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
        """Candidates that an earlier run of this sweep proposed, if they still mean the same runs."""
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
        """Put trials that became known into the plan, in place of what stood for them."""
        later = []
        for entry in self.plan.later:
            if (entry.cell, entry.phase) == (cell, phase):
                entry = replace(entry, count=max(0, entry.count - len(trials)))
            later.append(entry)
        self.plan.later = [entry for entry in later if entry.count]
        self.plan.trials += trials
        self._take(trials)

    def _propose(self) -> bool:
        """Ask a learning search for a candidate, the one that has had fewest; True when there is one."""
        learning = [search for search in self.searches if search.search.method == "optuna"]
        for search in sorted(learning, key=lambda one: len(one.candidates)):
            while (candidate := search.propose(self.slots)) is not None:
                try:
                    trials = self._candidate_trials(search, candidate)
                except UserError:
                    search.end(candidate, None)  # values that together make no valid run
                    continue
                self._add_candidate(search, candidate, trials)
                self.ledger.write_plan(self.plan.to_json())
                self._advance_searches()
                return True
        return False

    def _advance_searches(self) -> None:
        """Read what candidates gave; a search that is complete gets its winner's trials."""
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
