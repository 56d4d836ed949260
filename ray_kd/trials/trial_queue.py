"""The trial queue of a sweep: which job is next, given which have ended. It does not import Ray.

Candidates of searches come first, then controls and compared trials, long ones before short ones and seed by
seed, so that an interrupted sweep has complete pairs; each teacher comes right before the first trial that
needs it, after those that it learns from. The winner of a cell's search is added as soon as all candidates of
the cell have ended. With looks, all of this for the seeds of the first look, then for those of the next. A
slot that would stay free gets a seed ahead of its look. What a look decides gets no more seeds.
"""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError
from ray_kd.config.faults import fault_in
from ray_kd.config.names import printable
from ray_kd.config.plan import Plan, Trial, TrialMaker, teachers_of
from ray_kd.config.sweep import SweepSpec
from ray_kd.trials.job import RETRIES, Job, needs_of
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.pause import Pause
from ray_kd.trials.search import CellSearch
from ray_kd.trials.searches import Searches
from ray_kd.trials.sweep_looks import SweepLooks
from ray_kd.trials.tally import Tally
from ray_kd.trials.waiting import FRONT, Waiting


@dataclass
class TrialQueue:
    """The jobs of a sweep, and which of them is next. The cost of a job does not grow with their number.

    Args:
        plan: the sweep's plan; candidates and winners are added to it as they become known.
        ledger: the sweep's ledger, after ``load``.
        slots: how many jobs the machines can hold at the same time.
        ahead: how many more may be handed out, for which machines are asked for.
        retry_failed: train trials again that failed in an earlier invocation of the sweep.
        storage_timeout, say: see ``Pause``.
    """

    sweep: SweepSpec
    plan: Plan
    ledger: Ledger
    slots: int = 1
    ahead: int = 0
    retry_failed: bool = False
    storage_timeout: float = 0.0
    say: Callable[[str], None] = lambda text: None
    jobs: dict[str, Job] = field(default_factory=dict)
    started: int = 0
    """How many jobs this queue has handed out."""
    halted: bool = False
    """Set it to hand out no more jobs."""
    out_of_time: bool = False
    """Whether that is because the time is over that the user gave."""
    teachers_only: bool = False
    """Set it to hand out teachers only, so that their targets are stored before the first student starts."""

    def __post_init__(self) -> None:
        self.maker = TrialMaker(self.sweep)
        self.tally = Tally(sign=1.0 if self.plan.mode == "max" else -1.0)
        self.pause = Pause(self.ledger, self.storage_timeout, self.say)
        self._waiting = Waiting(self._untrained)
        self._looks: SweepLooks | None = None
        self._unfinished = 0
        self._take(self.plan.trials)
        self._searches = Searches(
            self.sweep, self.plan, self.ledger, self.maker, self.jobs, self._add, self._lose
        )
        self._declare()

    # Which job is next

    def next(self) -> Job | None:
        """The next job to start; None while there is none (see ``over``)."""
        if self.halted or self.pause.closed or self.active >= self.slots + self.ahead:
            return None
        job = self._first()
        wanted = job is None or job.phase not in ("teacher", "search")
        if wanted and not self.teachers_only and self._searches.propose(self.slots + self.ahead):
            job = self._first()
        if job is not None:
            self._waiting.remove(job)
            job.state = "issued"
            self.tally.issue(job)
            self.started += not job.resumed
        return job

    @property
    def active(self) -> int:
        """How many jobs are handed out and have not ended."""
        return self.tally.active

    @property
    def ready(self) -> bool:
        """Whether ``next`` would return a job if a slot were free."""
        if self.halted or self.pause.closed:
            return False
        learning = not self.teachers_only and self._searches.may_propose(self.slots + self.ahead)
        return learning or self._first() is not None

    @property
    def waiting(self) -> Job | None:
        """The first student's job that waits for a teacher; None: there is none."""
        return None if self.teachers_only else self._waiting.first_blocked()

    @property
    def over(self) -> bool:
        """Whether no job is left: all have ended, or wait for a run that is unfinished."""
        if self.halted or self.teachers_only:
            return self.halted or (self.active == 0 and self._first() is None and not self.pause.holds)
        stuck = self._unfinished > 0 and not self.ready  # a search waits for candidates that are unfinished
        return not self.tally.left and (self._searches.complete or stuck)

    @property
    def searches(self) -> list[CellSearch]:
        """The search of each searched cell."""
        return self._searches.all

    def remarks(self) -> list[str]:
        """What a person should know before trials start, a sentence each."""
        return [*self.looks.remarks(), *self._searches.remarks()]

    @property
    def looks(self) -> SweepLooks:
        """The design of the sweep, and what its looks say so far."""
        assert self._looks is not None
        return self._looks

    def _first(self) -> Job | None:
        return self._waiting.first(self.teachers_only)

    def _is_trained(self, identity: str) -> bool:
        outcome = self.jobs[identity].outcome
        return outcome is not None and outcome.status is Ending.FINISHED

    # What happened to a job

    def running(self, identity: str) -> None:
        """A job has started in its slot."""
        job = self.jobs[identity]
        job.state, job.began = "running", time.monotonic()
        self.tally.run(job)

    def progress(self, identity: str, epoch: int, value: float | None, waits: str | None = None) -> None:
        """A job reported an epoch, or what it waits for."""
        job = self.jobs[identity]
        job.epoch, job.waits = epoch, waits
        if value is not None:
            choose = max if self.plan.mode == "max" else min
            job.value, job.best = value, value if job.best is None else choose(job.best, value)

    def end(self, identity: str, outcome: Outcome) -> None:
        """A job ended: hold what the machine failed, else see to its students, its search and its looks."""
        job = self.jobs[identity]
        if outcome.status is Ending.UNFINISHED and self.storage_timeout > 0 and not self.halted:
            self.tally.back(job)
            job.state = "held"
            self.pause.hold(job, outcome)
            return
        self._settle(job, outcome)
        self._searches.ended(identity)

    def tick(self) -> None:
        """Hand out again what the machine failed, or end the sweep if that lasts; called often."""
        again, over = self.pause.released()
        for job in again:
            self._again(job)
        self.halted = self.halted or self.pause.lost is not None
        for job, outcome in over:
            self._settle(job, outcome)
            self._searches.ended(job.identity)

    def _again(self, job: Job) -> bool:
        """Put a held job to the front of the line; False: by now it is not needed."""
        if (why := self._not_needed(job)) is not None:
            self.end(job.identity, Outcome(Ending.NOT_NEEDED, why, 0.0, job.epoch, {}))
            return False
        job.state, job.began, job.resumed = "waiting", None, True
        self._waiting.add(job, FRONT)
        return True

    def crashed(self, identity: str, reason: str) -> bool:
        """The process of a job died; returns whether the job will be started again."""
        job = self.jobs[identity]
        try:
            earlier = self.ledger.outcomes([identity]).get(identity)
        except (OSError, UserError):  # the storage cannot be read, so no summary is found
            earlier = None
        if earlier is not None:  # its process died after the run had ended
            self.end(identity, earlier)
            return False
        fault = fault_in(reason)
        if fault is not None:
            self.end(identity, Outcome(Ending.UNFINISHED, str(fault), 0.0, job.epoch, {}))
            return job.state == "held"
        self.pause.suspect("a process died")  # a file that was mapped into its memory may be gone
        job.crashes += not self.pause.away
        if job.crashes <= RETRIES:
            return self.back(job)
        self.ledger.keep(path := f"runs/{identity}/error.txt", printable(reason).encode())
        last = (reason.strip().splitlines() or ["no reason given"])[-1]
        text = f"its worker process died {job.crashes} times; the last time: {last[:300]}"
        self.end(identity, Outcome(Ending.FAILED, text, 0.0, job.epoch, {}, path))
        return False

    def back(self, job: Job) -> bool:
        """Take a job out of its slot and hand it out again."""
        self.tally.back(job)
        job.state = "held"
        return self._again(job)

    def _settle(self, job: Job, outcome: Outcome) -> None:
        """Note how a job ended, and what follows for its students and for the strategies that it serves."""
        if job.state in ("issued", "running"):
            self.tally.back(job)
        self._waiting.remove(job)
        job.state, job.outcome = "done", outcome
        metric = self.plan.metric_of(job.spec)
        self.tally.end(job, outcome.best.get(metric))
        self._unfinished += not outcome.status.final and outcome.status is not Ending.NOT_NEEDED
        trained = self._is_trained(job.identity)
        if job.trial is not None or not trained:
            self.ledger.write(job.identity, job.cell, job.seed, job.phase, outcome)
        self._waiting.trained(job.identity) if trained else self._block(job)
        if job.trial is not None and self._looks is not None:
            self._follow(self._looks.ended(job))

    def _block(self, teacher: Job) -> None:
        """Block the runs whose teacher failed or is blocked; those of an unfinished one are unfinished."""
        known = teacher.outcome
        assert known is not None
        ending = Ending.UNFINISHED if known.status is Ending.UNFINISHED else Ending.BLOCKED
        how = "failed" if known.status.final else f"is {known.status}"
        reason = f"its teacher ({teacher.spec.name}) {how}: {known.reason}"
        outcome = Outcome(ending, reason, 0.0, 0, {}, known.error)
        for job in self._waiting.students(teacher.identity):
            if job.state == "waiting":
                self._settle(job, outcome)

    # Looks

    def _declare(self) -> None:
        """Declare what is to be compared; called again where a search has another winner, or none."""
        former = None if self._looks is None else self._looks.design
        self._looks = SweepLooks(self.sweep, self.plan, self.ledger, self.maker, self.jobs, former)
        self._line_up(job for job in self.jobs.values() if job.state == "waiting")
        self._follow(self._looks.design.current)

    def _lose(self) -> None:
        """A search has no winner: what was to be compared with it is compared with the baseline."""
        if self._looks is not None:
            self._declare()

    def _line_up(self, jobs: Iterable[Job]) -> None:
        """Put waiting jobs of trials where they belong."""
        blocking: dict[str, Job] = {}
        for job in jobs:
            if job.trial is None:
                continue
            self._waiting.add(job, *self.looks.place(job))
            blocking |= {teacher.identity: teacher for teacher in self._lost_teachers(job)}
            if self.ledger.entries.get(job.identity, {}).get("status") == Ending.NOT_NEEDED:
                self.ledger.erase(job.identity)  # by another design it was not
        for teacher in blocking.values():
            self._block(teacher)

    def _untrained(self, job: Job) -> list[Job]:
        """The teachers that a job needs and that are not trained."""
        return [self.jobs[need] for need in job.needs if not self._is_trained(need)]

    def _lost_teachers(self, job: Job) -> Iterator[Job]:
        """Of these, and of the teachers of those that wait, the ones that have ended."""
        for teacher in self._untrained(job):
            yield from [teacher] if teacher.state == "done" else self._lost_teachers(teacher)

    def _follow(self, strategies: Iterable[str]) -> None:
        """Do what the looks ask that strategies have reached: drop their other seeds, or train the next."""
        verdicts = self.looks.verdicts
        for cell in list(strategies):
            for one in (cell, str(self.looks.design.reference_of(cell))):
                ready = self.looks.jobs_for_next_look(one) if verdicts.passed(one) else []
                if not verdicts.closed(one):
                    self._line_up(job for job in ready if job.state == "waiting")
                for job in self.looks.jobs_of(one):
                    why = self._not_needed(job) if job.state == "waiting" else None
                    if why is not None:
                        self._settle(job, Outcome(Ending.NOT_NEEDED, why, 0.0, 0, {}))

    def _not_needed(self, job: Job) -> str | None:
        """Why a job is not needed; None: it is, by a strategy or as a teacher."""
        return None if self._waiting.students(job.identity) else self.looks.not_needed(job)

    # Adding trials

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

    def _take(self, trials: Iterable[Trial]) -> None:
        """Add the jobs that these trials need, and note those that have ended in an earlier invocation."""
        trials = list(trials)
        new: dict[str, Job] = {}
        known, joined = ChainMap(new, self.jobs), list[Job]()
        for trial in trials:
            for identity, run in trial.teachers.items():
                if identity not in known:
                    known[identity] = Job(identity, run, None, needs_of(run))
                known[identity].teaches = True
            job = known.get(trial.identity)
            if job is None:
                taught = any(known[one].needs for one in trial.teachers)
                needs = needs_of(trial.spec) if taught else tuple(trial.teachers)
                known[trial.identity] = Job(trial.identity, trial.spec, trial, needs)
            elif job.trial is None:  # a teacher serves a trial too
                job.trial = trial
                joined += [] if trial.identity in new else [job]
        self.jobs.update(new)
        for job in (*new.values(), *joined):
            self.tally.add(job)
        reached = [] if self._looks is None else self._looks.add(trials)
        for identity, outcome in self.ledger.outcomes(new).items():
            if outcome.status is Ending.FAILED and self.retry_failed:
                self.ledger.stale.add(identity)
            else:
                self._settle(new[identity], outcome)
        for job in joined:
            if job.outcome is not None:
                self._settle(job, job.outcome)
        for identity in new.keys() & self.ledger.stale:
            self.ledger.forget(identity)
        planned = {teacher.identity() for teacher in self.plan.teachers}
        self.plan.teachers += [run for run in teachers_of(trials) if run.identity() not in planned]
        if reached is None:
            self._declare()
        elif self._looks is not None:
            self._line_up(job for job in (*new.values(), *joined) if job.state == "waiting")
            self._follow(reached)
