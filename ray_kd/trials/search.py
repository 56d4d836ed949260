"""The search of one cell: which candidates it tries, their values, and which one is best."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, field
from typing import Any

from ray_kd.config.cells import Cell, Overrides
from ray_kd.config.plan import proposals
from ray_kd.config.space import Space
from ray_kd.config.sweep import Search


@dataclass
class Candidate:
    """One combination of values of the searched keys.

    Attributes:
        identities: of its runs, one for each of the search's seeds.
        value: mean validation metric over seeds; None unless all of its runs have finished.
        partial: (epoch, best validation metric up to it) if a scheduler stopped it.
    """

    index: int
    overrides: Overrides
    identities: tuple[str, ...] = ()
    ended: bool = False
    value: float | None = None
    partial: tuple[int, float] | None = None


@dataclass
class CellSearch:
    """The candidates of one cell, up to the search's budget.

    Attributes:
        recalled: how many of them an earlier invocation of the sweep proposed.
    """

    cell: Cell
    search: Search
    mode: str
    candidates: list[Candidate] = field(default_factory=list)
    recalled: int = 0
    _study: Any = None
    _asked: dict[int, Any] = field(default_factory=dict)
    _ended: int = 0

    def former(self, overrides: Overrides) -> bool:
        """Whether a candidate of an earlier invocation of the sweep still lies in the search space."""
        return overrides.keys() == self.search.space.keys() and all(
            self.search.space[key].contains(value) for key, value in overrides.items()
        )

    def add(self, overrides: Overrides) -> Candidate:
        """Add a candidate: a fixed one, or one that an earlier invocation of the sweep proposed."""
        candidate = Candidate(len(self.candidates), overrides)
        self.candidates.append(candidate)
        return candidate

    def fixed(self) -> list[Overrides]:
        """The candidates that are known before the first trial: all of a grid or random search."""
        return [] if self.search.method == "optuna" else list(proposals(self.search))

    def propose(self, ahead: int) -> Candidate | None:
        """The next candidate; None while ``ahead`` candidates have not ended, or when the budget is spent."""
        if not self.may_propose(ahead):
            return None
        index = len(self.candidates)
        asked = self.study.ask()
        overrides = {key: _suggest(asked, key, space) for key, space in self.search.space.items()}
        self._asked[index] = asked
        return self.add(overrides)

    def may_propose(self, ahead: int) -> bool:
        """Whether ``propose`` would return a candidate."""
        return self.learns and len(self.candidates) - self._ended < ahead

    @property
    def learns(self) -> bool:
        """Whether it will propose candidates that depend on how others ended."""
        return self.search.method == "optuna" and len(self.candidates) < self.search.budget

    def end(
        self, candidate: Candidate, value: float | None, partial: tuple[int, float] | None = None
    ) -> None:
        """Note a candidate's value; None: it failed, or was stopped (``partial`` says where)."""
        self._ended += not candidate.ended
        candidate.ended, candidate.value, candidate.partial = True, value, partial
        if self._study is not None:
            self._tell(candidate)

    @property
    def complete(self) -> bool:
        """Whether the budget is spent and every candidate has ended."""
        return len(self.candidates) >= self.search.budget and self._ended == len(self.candidates)

    def winner(self) -> Candidate | None:
        """The best candidate, the earlier of two equal ones; None if no candidate finished."""
        finished = [one for one in self.candidates if one.value is not None]
        sign = 1.0 if self.mode == "max" else -1.0
        return max(finished, key=lambda one: (sign * (one.value or 0.0), -one.index), default=None)

    @property
    def study(self) -> Any:
        """Optuna's study, with all candidates that have ended."""
        if self._study is None:
            import optuna

            optuna.logging.set_verbosity(optuna.logging.ERROR)
            known = [one for one in self.candidates if one.ended]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # constant_liar is marked experimental
                sampler = optuna.samplers.TPESampler(
                    # Draws differ from those of an earlier invocation of the sweep.
                    seed=random.Random(f"{self.search.seed}/{len(self.candidates)}").randrange(2**32),
                    n_startup_trials=min(10, max(1, self.search.budget // 2)),
                    constant_liar=True,
                )
            direction = "maximize" if self.mode == "max" else "minimize"
            self._study = optuna.create_study(direction=direction, sampler=sampler)
            for candidate in known:
                self._tell(candidate)
        return self._study

    def _tell(self, candidate: Candidate) -> None:
        from optuna.trial import TrialState, create_trial

        state = TrialState.COMPLETE if candidate.value is not None else TrialState.FAIL
        if candidate.partial is not None:
            state = TrialState.PRUNED  # the sampler learns from a stopped candidate that it was worse
        asked = self._asked.pop(candidate.index, None)
        if asked is not None:
            if candidate.partial is not None:
                asked.report(candidate.partial[1], candidate.partial[0])
            self._study.tell(asked, values=candidate.value, state=state)
            return
        space = self.search.space
        self._study.add_trial(
            create_trial(
                params=_params(space, candidate.overrides),
                distributions={
                    name: distribution
                    for key in candidate.overrides
                    for name, distribution in _distributions(key, space[key]).items()
                    if name in _params(space, candidate.overrides)
                },
                value=candidate.value,
                state=state,
                intermediate_values=dict([candidate.partial]) if candidate.partial else None,
            )
        )


def _distributions(key: str, space: Space) -> dict[str, Any]:
    """What Optuna draws for a key: whether it is 0 (if it may be), and otherwise its value."""
    from optuna import distributions

    if space.choice is not None:
        return {key: distributions.CategoricalDistribution(range(len(space.choice)))}
    low, high = space.bounds
    log = space.kind.startswith("log_")
    value: Any = distributions.FloatDistribution(low, high, log=log)
    if space.kind.endswith("integer"):
        value = distributions.IntDistribution(int(low), int(high), log=log)
    return (
        {_off(key): distributions.CategoricalDistribution((False, True)), key: value}
        if space.zero
        else {key: value}
    )


def _suggest(asked: Any, key: str, space: Space) -> Any:
    if space.choice is not None:  # by index: Optuna takes no lists or mappings
        return space.choice[asked.suggest_categorical(key, range(len(space.choice)))]
    if space.zero and asked.suggest_categorical(_off(key), (False, True)):
        return 0.0
    low, high = space.bounds
    log = space.kind.startswith("log_")
    if space.kind.endswith("integer"):
        return asked.suggest_int(key, int(low), int(high), log=log)
    return asked.suggest_float(key, low, high, log=log)


def _params(space: dict[str, Space], overrides: Overrides) -> dict[str, Any]:
    """A candidate's values as Optuna's parameters."""
    params: dict[str, Any] = {}
    for key, value in overrides.items():
        choice = space[key].choice
        if space[key].zero:
            params[_off(key)] = value == 0
            if value == 0:
                continue
        params[key] = value if choice is None else choice.index(value)
    return params


def _off(key: str) -> str:
    return f"{key} is 0"
