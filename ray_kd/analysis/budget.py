"""At what tuning budget: what a random search of n candidates finds in each searched cell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.run_files import Row, parse_spec
from ray_kd.config.cells import strategy_name
from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError
from ray_kd.statistics.budget import typical_best
from ray_kd.statistics.intervals import Interval

BUDGETS = (1, 2, 5, 10, 20)
"""Candidates that the table shows."""


@dataclass(frozen=True)
class Curve:
    """One searched cell."""

    cell: str
    failed: int
    """Candidates without a figure since they failed; a budget counts those that end."""
    points: tuple[Interval, ...]
    """For budgets from 1: what the search finds on average, with the interval of its median."""

    def at(self, n: int) -> Interval | None:
        """What a search of n candidates finds; None beyond those that there were."""
        return self.points[n - 1] if n <= len(self.points) else None


@dataclass(frozen=True)
class Passing:
    """A cell that is ahead of another, on average, from a budget on."""

    budget: int
    ahead: str
    behind: str
    sure: bool
    """Their intervals lie apart at a smaller budget, the one way, and at this or a larger one, the other."""


@dataclass(frozen=True)
class Budget:
    """The curves of one task, and what changes along them."""

    comparison: Comparison
    curves: tuple[Curve, ...]
    passings: tuple[Passing, ...]
    refused: dict[str, str]
    """Searched cells of which nothing is said, with the reason."""

    def apart(self, n: int) -> tuple[int, int]:
        """Pairs of cells whose intervals at this budget do not meet, and all pairs."""
        known = [point for curve in self.curves if (point := curve.at(n)) is not None]
        pairs = list(itertools.combinations(known, 2))
        return sum(one.low > other.high or other.low > one.high for one, other in pairs), len(pairs)


def budget(records: Records, comparison: Comparison, root: Folder) -> Budget:
    """The curves of the cells that a random search tuned, from the validation figures of its candidates.

    Raises:
        UserError: no cell has a random search whose candidates have all ended.
    """
    plan, higher = comparison.plan, comparison.metric.mode == "max"
    column = f"best_val_{comparison.metric.name}"
    methods = _methods(root, plan.name)
    known = records.trials.drop_duplicates("identity").set_index("identity")
    curves, refused = [], {}
    for cell, entries in _searched(root, plan.name, set(known.index)).items():
        rows = [known.loc[[entry["identity"] for entry in tried]] for tried in entries.values()]
        name = strategy_name(cell, next(iter(entries.values()))[0].get("axes") or {})
        reason = _refusal(methods.get(cell, methods.get("")), pd.concat(rows))
        if reason:
            refused[name] = reason
            continue
        means = [float(one[column].mean()) for one in rows if (one["status"] == "finished").all()]
        values = [value for value in means if math.isfinite(value)]
        points = tuple(typical_best(values, n, higher) for n in range(1, len(values) + 1))
        curves.append(Curve(name, len(rows) - len(values), points))
    if not any(curve.points for curve in curves):
        why = "; ".join(f"'{cell}': {reason}" for cell, reason in refused.items()) or "no cell was searched"
        raise UserError(f"only budget: sweep '{plan.name}' has no random search that has ended ({why}).")
    passings = [one for a, b in itertools.combinations(curves, 2) for one in _passings(a, b, higher)]
    passings.sort(key=lambda one: one.budget)
    return Budget(comparison, tuple(curves), tuple(passings), refused)


def _searched(root: Folder, sweep: str, identities: set[str]) -> dict[str, dict[int, list[Row]]]:
    """The planned trials of each searched cell by candidate, of these runs."""
    found: dict[str, dict[int, list[Row]]] = {}
    for entry in root.json(f"sweeps/{sweep}/plan.json")["trials"]:
        if entry.get("phase") == "search" and entry["identity"] in identities:
            candidates = found.setdefault(str(entry["cell"]), {})
            candidates.setdefault(int(entry.get("candidate") or 0), []).append(entry)
    return found


def _methods(root: Folder, sweep: str) -> dict[str, str]:
    """The method by which each cell is searched; under '' that of all cells."""
    listed = parse_spec(root.text(f"sweeps/{sweep}/sweep.yaml")).get("search")
    found: dict[str, str] = {}
    for search in listed if isinstance(listed, list) else [listed] if isinstance(listed, dict) else []:
        cells = search.get("cells", "all")
        for cell in cells if isinstance(cells, list) else [""]:
            found[str(cell)] = str(search.get("method", "random"))
    return found


def _refusal(method: str | None, trials: pd.DataFrame) -> str:
    """Why the candidates of a cell are no independent draws with a figure of each; empty: they are."""
    if method != "random":
        kind = {None: "sweep.yaml does not say how it was searched", "grid": "a grid"}
        what = kind.get(method, f"{method}, which learns from the candidates before")
        return f"{what}; only a random search draws its candidates independently"
    ended = [Ending.FINISHED.value, Ending.FAILED.value]
    left = trials[~trials["status"].isin(ended)]
    stopped = int((left["status"] == Ending.STOPPED.value).sum())
    if stopped:
        return f"a scheduler stopped {stopped} of {len(trials)} trials, so that their figures are not known"
    return f"{len(left)} of {len(trials)} trials have not ended" if len(left) else ""


def _passings(one: Curve, other: Curve, higher: bool) -> Iterator[Passing]:
    sign = 1.0 if higher else -1.0
    pairs = list(zip(one.points, other.points, strict=False))
    apart = [1 if a.low > b.high else -1 if b.low > a.high else 0 for a, b in pairs]
    lead = 0.0
    for n, (a, b) in enumerate(pairs, 1):
        now = math.copysign(1.0, a.mean - b.mean) if a.mean != b.mean else lead
        if lead and now != lead:
            ahead, behind = (one, other) if sign * now > 0 else (other, one)
            sure = -now in apart[: n - 1] and now in apart[n - 1 :]
            yield Passing(n, ahead.cell, behind.cell, sure)
        lead = now
