"""The looks of a sweep as its trial queue uses them: what is declared and decided, and which job matters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ray_kd.config.plan import Plan, Trial, TrialMaker
from ray_kd.config.seeds import SeedLooks
from ray_kd.config.sweep import SweepSpec
from ray_kd.statistics.looks import Verdict
from ray_kd.trials.design import Design, declare, has_begun
from ray_kd.trials.family import Family
from ray_kd.trials.findings import spread_of
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Ledger
from ray_kd.trials.schedule import identity_of, schedule_of
from ray_kd.trials.verdicts import Verdicts
from ray_kd.trials.waiting import Priority


class SweepLooks:
    """The design of a sweep, the verdicts so far, and what they mean for each job.

    Args:
        jobs: the trial queue's, by identity; those that ended before are known from their outcomes.
        former: the design so far; None: the one that an earlier invocation left.
    """

    def __init__(
        self,
        sweep: SweepSpec,
        plan: Plan,
        ledger: Ledger,
        maker: TrialMaker,
        jobs: Mapping[str, Job],
        former: Design | None = None,
    ) -> None:
        self.sweep, self.plan, self.ledger, self.maker, self.jobs = sweep, plan, ledger, maker, jobs
        self._serves: dict[str, list[Trial]] = {}
        self._cells: dict[str, dict[int, Trial]] = {}
        """Compared cell -> seed -> trial."""
        self._index(plan.trials)
        former = self._former() if former is None else former
        schedule = schedule_of(sweep, plan, ledger, maker)
        self.design = declare(plan.to_json(), schedule, former, identity_of=self._identity)
        self.verdicts = Verdicts(self.design, plan.mode == "max")
        for identity, trials in self._serves.items():
            if jobs[identity].outcome is not None:
                self._note(jobs[identity], trials)
        for cell in self.design.current:
            self._begin(cell)
        self._measure()

    @property
    def drops(self) -> bool:
        """Whether what a look decides gets no more seeds; a list of seeds is trained as it stands."""
        return isinstance(self.sweep.seeds, SeedLooks)

    def add(self, trials: Iterable[Trial]) -> list[str] | None:
        """Trials became known; returns the strategies that reached a look by those that have ended already.

        None: a search's winner is not the one that was declared, so that the design has to be declared again.
        """
        trials = list(trials)
        self._index(trials)
        for cell in dict.fromkeys(trial.cell for trial in trials):
            beside = self.verdicts.strategies_of(cell)
            indices = {self.design.current[one] for one in (beside or [cell]) if one in self.design.current}
            for index in indices:
                family = self.design.families[index]
                first = self._cells.get(cell, {}).get(family.seeds[0])
                found = None if first is None else first.identity
                if {**family.references, **family.cells}.get(cell, found) not in (None, found):
                    return None
                key = "references" if cell in family.references else "cells"
                self._change(index, **{key: {**getattr(family, key), cell: found}})
        known = [(self.jobs[trial.identity], [trial]) for trial in trials]
        return self._reached((job, of) for job, of in known if job.outcome is not None)

    def ended(self, job: Job) -> list[str]:
        """A job ended; returns the strategies that reached a look by it."""
        return self._reached([(job, self._serves.get(job.identity, []))])

    def place(self, job: Job) -> tuple[Priority, bool]:
        """A job's priority, and whether it runs ahead of a look."""
        trials = [trial for trial in self._serves[job.identity] if not self.drops or self._why(trial) is None]
        trials = trials or self._serves[job.identity]
        return min(map(self._priority, trials)), all(map(self._ahead, trials))

    def not_needed(self, job: Job) -> str | None:
        """Why a job is not needed; None: it is."""
        if job.trial is None or not self.drops:
            return None
        reasons = [self._why(trial) for trial in self._serves[job.identity]]
        return None if None in reasons else reasons[0]

    def jobs_of(self, cell: str) -> list[Job]:
        """The jobs of a compared cell, in the order of its seeds."""
        return [self.jobs[trial.identity] for trial in self._cells.get(cell, {}).values()]

    def jobs_for_next_look(self, cell: str) -> list[Job]:
        """Those that are trained for the look after the last one that was reached."""
        stage = self.verdicts.passed(cell)
        mine = self._cells.get(cell, {}).items()
        return [self.jobs[trial.identity] for seed, trial in mine if self.verdicts.stage(cell, seed) == stage]

    def remarks(self) -> list[str]:
        """A sentence for each way in which the sweep file differs from what stands declared."""
        lines, seeds = [], self.sweep.all_seeds
        wanted = schedule_of(self.sweep, self.plan, self.ledger, self.maker)
        looks, sizing = wanted.looks or (len(seeds),), wanted.sizing
        for index, family in enumerate(self.design.families):
            count = sum(1 for one in self.design.current.values() if one == index)
            if not count:
                continue
            who = f"{count} strateg{'y' if count == 1 else 'ies'}"
            same = family.margin == wanted.margin and family.seeds[0] == seeds[0]
            if sizing is None or family.sizing is None:
                same &= family.sizing is sizing and (family.looks, family.seeds) == (
                    looks,
                    seeds[: looks[-1]],
                )
            else:
                same &= family.sizing.asked == sizing
            if not same:
                lines.append(
                    f"{who} declared on {family.declared} with looks at {family.plain}: these stand, since a "
                    "look was complete when the file was changed. Seeds beyond them are descriptive."
                )
            elif index and any(one.begun for one in self.design.families[:index]):
                lines.append(
                    f"{who} joined or changed after a look at earlier ones: a family of their own, "
                    f"declared on {family.declared}."
                )
        return lines

    def _former(self) -> Design:
        """The design of an earlier invocation, with what its records say by now."""
        design, plan = self.ledger.read_design(), self.ledger.read_plan() or {}
        trials = plan.get("trials") or []
        if all(family.begun for family in design.families) or not trials:
            return design
        known = {one: job.outcome for one, job in self.jobs.items() if job.outcome is not None}
        others = {str(trial["identity"]) for trial in trials} - self.jobs.keys()
        outcomes = {**known, **self.ledger.outcomes(others)}
        ended = {identity for identity, outcome in outcomes.items() if outcome.status.counts}
        families = tuple(
            replace(family, begun=family.begun or has_begun(family, trials, ended))
            for family in design.families
        )
        return replace(design, families=families)

    def _identity(self, cell: str, seed: int) -> str | None:
        """The identity of a cell's trial of a seed that the plan does not hold."""
        if cell not in self._cells:
            return None
        return identity_of(self.maker, next(iter(self._cells[cell].values())), seed)

    def _index(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            self._serves.setdefault(trial.identity, []).append(trial)
            if trial.phase == "compare":
                self._cells.setdefault(trial.cell, {})[trial.seed] = trial

    def _reached(self, ended: Iterable[tuple[Job, list[Trial]]]) -> list[str]:
        """Note jobs that ended; the families of the strategies returned, which reached a look, stand."""
        reached = dict.fromkeys(cell for job, trials in ended for cell in self._note(job, trials))
        begun, measured = sum(self._begin(cell) for cell in reached), self._measure()
        if begun or measured:
            self.ledger.write_design(self.design)
        return list(reached | dict.fromkeys(measured))

    def _note(self, job: Job, trials: Iterable[Trial]) -> list[str]:
        assert job.outcome is not None
        value = job.outcome.test.get(self.plan.metric_of(job.spec))
        reached: list[str] = []
        for trial in trials:
            if trial.phase == "compare":
                reached += self.verdicts.note(trial.cell, trial.seed, job.outcome.status, value)
        return reached

    def _begin(self, cell: str) -> bool:
        """Let a family stand once one of its strategies has reached a look; returns whether that is new."""
        index = self.design.current[cell]
        new = self.verdicts.passed(cell) > 0 and not self.design.families[index].begun
        if new:
            self._change(index, begun=True)
        return new

    def _measure(self) -> list[str]:
        """Choose the later looks of families whose pilot has ended, once; returns their strategies.

        The spread is that of the strategies which the pilot leaves open, of its seeds alone, whatever ran
        ahead: a function of the records.
        """
        found: list[str] = []
        for index in self.verdicts.piloted():
            family = self.design.families[index]
            cells = [cell for cell, of in self.design.current.items() if of == index]
            compared = [cell for cell in cells if not self.verdicts.closed(cell)]
            first = family.seeds[: family.looks[0]]
            values = {cell: self.verdicts.values_of(cell, first) for cell in (*compared, *family.references)}
            spread = spread_of(family, values)
            self._set(index, family.sized(0.0 if spread is None else spread.value, self.sweep.all_seeds))
            found += cells
            for cell in compared:
                self.verdicts.judge_again(cell)
        return found

    def _change(self, index: int, **changes: object) -> None:
        self._set(index, replace(self.design.families[index], **changes))  # type: ignore[arg-type]

    def _set(self, index: int, family: Family) -> None:
        families = list(self.design.families)
        families[index] = family
        self.design = self.verdicts.design = Design(tuple(families), self.design.current)

    def _priority(self, trial: Trial) -> Priority:
        """Searches first (their winners come after), then long trials before short ones, seed by seed."""
        if trial.phase == "search":
            return 0, 1, trial.candidate or 0, 0, 1
        stage = self.verdicts.stage(trial.cell, trial.seed) if trial.phase == "compare" else 0
        return stage, 2, -trial.spec.training.epochs, trial.seed, 1

    def _ahead(self, trial: Trial) -> bool:
        if trial.phase != "compare":
            return False
        return self.verdicts.stage(trial.cell, trial.seed) > self.verdicts.passed(trial.cell)

    def _why(self, trial: Trial) -> str | None:
        """Why a trial is not needed; None: it is."""
        if trial.phase != "compare":
            return None
        if self.verdicts.beyond(trial.cell, trial.seed):
            return "the looks that the spread of differences asks for end before this seed"
        if not self.verdicts.closed(trial.cell):
            return None
        if trial.cell not in self.design.current:
            return "no strategy that is compared with it needs more seeds"
        judged = self.verdicts.of(trial.cell)
        if judged.verdict.decided:
            return f"decided at the look of {judged.look} seeds: {judged.verdict}"
        lost = judged.verdict is Verdict.NONE
        why = f"{judged.lost} seeds were lost" if lost else "more seeds have little hope to decide it"
        return f"ended at the look of {judged.look} seeds: {why}"
