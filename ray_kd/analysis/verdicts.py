"""The rule on the trials of a sweep: each strategy beside its reference, by the looks of its family."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from ray_kd.analysis.records import Records
from ray_kd.analysis.run_files import number_in
from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError
from ray_kd.config.sweep import MONITOR
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Judged, Looks, Verdict, judge
from ray_kd.trials.design import Design
from ray_kd.trials.family import Family
from ray_kd.trials.verdicts import Verdicts


@dataclass(frozen=True)
class Versus:
    """One strategy beside its reference."""

    reference: str
    """The cell that it is compared with: the baseline, or for the winner of a search that of the
    baseline's own search."""
    family: Family
    """The strategies that were declared together with it."""
    later: bool
    """Whether the family was declared after the first look of another one."""
    judged: Judged

    @property
    def looks(self) -> Looks:
        """The looks that its verdict may fall at."""
        return self.family.judged_by

    @property
    def verdict(self) -> Verdict:
        """What headline, tables, plots and files say of the strategy."""
        return self.judged.verdict

    @property
    def difference(self) -> Interval:
        """The mean difference, with the interval that carries the verdict; without bounds where none does."""
        return shown(self.judged)

    def seeds(self, values: Collection[int], reference: Collection[int]) -> list[int]:
        """The seeds that the difference is from, given those that the strategy and its reference have."""
        look = self.judged.look if self.verdict is not Verdict.NONE else 0
        of = self.family.seeds[:look] if look else values
        return [seed for seed in of if seed in values and seed in reference]

    @property
    def level(self) -> float:
        """Confidence of its interval by itself, nan before the first look; together those of the family have
        95 %."""
        return 1 - self.looks.error(self.judged.look) if self.judged.look else math.nan

    @property
    def waits(self) -> bool:
        """Whether a look to come may still change its verdict."""
        more = self.family.unmeasured or self.looks.at[-1] > self.judged.look
        return more and not self.judged.settled


def shown(judged: Judged) -> Interval:
    """The mean difference, with the interval that carries the verdict; without bounds where none does."""
    found, lost = judged.difference, judged.verdict is Verdict.NONE
    return Interval(found.mean, math.nan, math.nan, found.n) if lost else found


def verdicts(
    trials: pd.DataFrame,
    figures: Mapping[str, Mapping[int, float]],
    design: Design,
    higher_is_better: bool,
) -> dict[str, Versus]:
    """Each compared cell beside its reference, by name.

    Args:
        trials: those of phase ``compare``.
        figures: the compared metric by cell and seed, of the trials that finished.
    """
    ended = ended_by_cell(trials)
    found = {}
    for cell, index in design.current.items():
        family = design.families[index]
        reference = family.reference_of(cell)
        both = ended.get(cell, frozenset()) & ended.get(reference, frozenset())
        values, others = figures.get(cell, {}), figures.get(reference, {})
        judged = judge(family.judged_by, family.seeds, values, others, both, higher_is_better)
        later = any(other.task == family.task for other in design.families[:index])
        found[cell] = Versus(reference, family, later, judged)
    return found


def ended_seeds(trials: pd.DataFrame) -> frozenset[int]:
    """The seeds whose trial has ended, in whatever way that looks count."""
    return ended_by_cell(trials.assign(cell="")).get("", frozenset())


def ended_by_cell(trials: pd.DataFrame) -> dict[str, frozenset[int]]:
    """``ended_seeds`` of the trials of each cell."""
    counted = {ending.value for ending in Ending if ending.counts}
    seeds: dict[str, dict[int, bool]] = {}
    known = trials[["cell", "seed", "status"]].dropna(subset=["cell", "seed"])
    for cell, seed, status in known.itertuples(index=False):
        of = seeds.setdefault(str(cell), {})
        of[int(seed)] = of.get(int(seed), True) and status in counted
    return {cell: frozenset(seed for seed, ended in of.items() if ended) for cell, of in seeds.items()}


def sweep_verdicts(records: Records) -> Verdicts:
    """The same as the driver of a sweep counts it, by the names of the plan's cells.

    Each task has the metric and the direction of its table; where less is better, the sign of values is
    turned.

    Raises:
        UserError: no plan.
    """
    plan = records.plan
    if plan is None:
        raise UserError("verdicts need the plan of one sweep: read_records(storage, sweep=NAME).")
    found = Verdicts(plan.design)
    compared = records.trials[records.trials["phase"] == "compare"]
    compared = compared[compared["status"].isin([ending.value for ending in Ending])]
    wanted = ("cell", "seed", "status", "monitor", "mode")
    columns = [name for name in compared if name in wanted or str(name).startswith("best_test_")]
    for row in compared[columns].to_dict("records"):
        own = plan.metric == MONITOR
        metric, mode = (row["monitor"], row["mode"]) if own else (plan.metric, plan.mode)
        value = number_in(row.get(f"best_test_{metric}"))
        known = None if value is None or not math.isfinite(value) else -value if mode == "min" else value
        found.note(str(row["cell"]), int(row["seed"]), Ending(row["status"]), known)
    return found
