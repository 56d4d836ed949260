"""The searches of a sweep: candidates join its plan as they become known, and winners as searches end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray_kd.config.cells import Cell, searched_name
from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError
from ray_kd.config.plan import Plan, Trial, TrialMaker
from ray_kd.config.sweep import SweepSpec
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Ledger
from ray_kd.trials.search import Candidate, CellSearch


class Searches:
    """All searches of a sweep, one for each searched cell.

    Args:
        jobs: the trial queue's, by identity.
        add: adds trials that became known to the queue: trials, cell, phase.
        lost: called when a search has no winner, since no candidate finished.
    """

    def __init__(
        self,
        sweep: SweepSpec,
        plan: Plan,
        ledger: Ledger,
        maker: TrialMaker,
        jobs: Mapping[str, Job],
        add: Callable[[list[Trial], str, str], None],
        lost: Callable[[], None],
    ) -> None:
        self.sweep, self.plan, self.ledger, self.maker, self.jobs = sweep, plan, ledger, maker, jobs
        self._add, self._lost = add, lost
        self.all: list[CellSearch] = []
        self._of: dict[str, list[tuple[int, Candidate]]] = {}
        """Run -> the candidates that it serves, each with the index of its search in ``all``."""
        self._running: set[int] = set()
        """Searches that are not complete."""
        self._learning: set[int] = set()
        """Searches that will propose more candidates."""
        cells = {cell.name: cell for cell in sweep.all_cells()}
        for one in sweep.search:
            for name in sweep.searched_by(one):
                self._open(CellSearch(cells[name], one, plan.mode))
        for index, search in enumerate(self.all):
            for candidate in search.candidates:
                self._value(search, candidate)
            self._close(index)

    @property
    def complete(self) -> bool:
        """Whether every budget is spent and every candidate has ended."""
        return not self._running

    def may_propose(self, ahead: int) -> bool:
        """Whether ``propose`` would add a candidate; ``ahead``: candidates of a search that may be open."""
        return any(self.all[index].may_propose(ahead) for index in self._learning)

    def propose(self, ahead: int) -> bool:
        """Ask the learning search with the fewest candidates for the next; returns whether there is one."""
        for index in sorted(self._learning, key=lambda one: (len(self.all[one].candidates), one)):
            search = self.all[index]
            while (candidate := search.propose(ahead)) is not None:
                if not search.learns:
                    self._learning.remove(index)
                try:
                    trials = self._trials(search, candidate)
                except UserError:
                    search.end(candidate, None)  # the combination of values is no valid run
                    self._close(index)
                    continue
                self._take(index, candidate, trials)
                self.ledger.write_plan(self.plan.to_json())
                self._value(search, candidate)
                self._close(index)
                return True
        return False

    def ended(self, identity: str) -> None:
        """A run ended: note its candidates' values, and add the winners of searches that are complete."""
        for index, candidate in self._of.get(identity, ()):
            self._value(self.all[index], candidate)
            self._close(index)

    def _open(self, search: CellSearch) -> None:
        index = len(self.all)
        self._running.add(index)
        self.all.append(search)
        for overrides in search.fixed():
            candidate = search.add(overrides)
            self._know(index, candidate, self._trials(search, candidate))
        if search.search.method == "optuna":
            self._recall(index)
        if search.learns:
            self._learning.add(index)

    def _recall(self, number: int) -> None:
        """Add the candidates of an earlier invocation of the sweep whose runs' identities are unchanged."""
        search, former = self.all[number], dict[int, dict[int, dict[str, Any]]]()
        for entry in (self.ledger.read_plan() or {}).get("trials", []):
            if entry.get("phase") == "search" and entry.get("cell") == search.cell.name:
                former.setdefault(int(entry.get("candidate") or 0), {})[entry["seed"]] = entry
        for index in sorted(former):
            entries = former[index]
            axes = next(iter(entries.values()))["axes"]
            overrides = {key: value for key, value in axes.items() if key in search.search.space}
            if not search.former(overrides) or len(search.candidates) >= search.search.budget:
                continue
            trials = self._trials(search, Candidate(len(search.candidates), overrides))
            if all(entries.get(trial.seed, {}).get("identity") == trial.identity for trial in trials):
                self._take(number, search.add(overrides), trials)
                search.recalled += 1

    def remarks(self) -> list[str]:
        """What an interruption may have changed: a sentence for the candidates, and one for the scheduler."""
        lines, learning = [], [search for search in self.all if search.recalled and search.learns]
        if learning:
            kept = sum(search.recalled for search in learning)
            left = sum(search.search.budget - len(search.candidates) for search in learning)
            lines.append(
                f"{kept} candidates of an earlier call are kept, and {left} are still to be proposed. These, "
                "and with them the winner, may differ from those of a sweep that was not interrupted: the "
                "sampler draws anew, and learns from what has ended by now."
            )
        states = {job.state for job in self.jobs.values() if job.trial is not None}
        if self.sweep.scheduler is not None and "done" in states and "waiting" in states:
            lines.append(
                f"{self.sweep.scheduler.name} compares a trial with those that ended before it: after an "
                "interruption it may stop others than it would have stopped."
            )
        return lines

    def _trials(self, search: CellSearch, candidate: Candidate) -> list[Trial]:
        return [
            self.maker.make(search.cell, seed, "search", candidate.overrides, candidate.index)
            for seed in search.search.seeds
        ]

    def _know(self, index: int, candidate: Candidate, trials: list[Trial]) -> None:
        candidate.identities = tuple(trial.identity for trial in trials)
        for identity in dict.fromkeys(candidate.identities):
            self._of.setdefault(identity, []).append((index, candidate))

    def _take(self, index: int, candidate: Candidate, trials: list[Trial]) -> None:
        self._know(index, candidate, trials)
        self._add(trials, self.all[index].cell.name, "search")

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

    def _close(self, index: int) -> None:
        """Add the winner's trials of a search that is complete."""
        search = self.all[index]
        if index not in self._running or not search.complete:
            return
        self._running.remove(index)
        name, winner = searched_name(search.cell.name), search.winner()
        if winner is None:
            self.plan.later = [entry for entry in self.plan.later if entry.cell != name]
            self.plan.cells = tuple(cell for cell in self.plan.cells if cell != name)
            self.plan.notes.append(
                f"'{search.cell.name}' has no searched cell: none of its candidates finished."
            )
            self._lost()
        else:
            overrides = {**search.cell.overrides, **winner.overrides}
            cell = Cell(name=name, overrides=overrides, axes={**search.cell.axes, **winner.overrides})
            trials = [self.maker.make(cell, seed, "compare") for seed in self.sweep.all_seeds]
            self._add(trials, name, "compare")
        self.ledger.write_plan(self.plan.to_json())
