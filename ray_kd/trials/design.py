"""What a sweep declared before it looked at results: families of strategies, their looks and their margin.

The driver keeps it in ``sweeps/<name>/design.json``. Until a family's first look is complete for one of its
strategies, an edited sweep file replaces the family; from then on it stands. Strategies that are added or
changed later are a new family, which is judged by itself.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ray_kd.config.cells import SEARCHED, TASK, searched_name, strategy_name
from ray_kd.trials.family import POINT, Family, Sizing

Entry = Mapping[str, Any]
IdentityOf = Callable[[str, int], str | None]


@dataclass(frozen=True)
class Design:
    """The families of a sweep, and the family in which each cell of the present plan is judged.

    Example:
        >>> trials = [
        ...     {"cell": cell, "seed": seed, "phase": "compare", "identity": f"{cell}{seed}"}
        ...     for cell in ("alone", "taught") for seed in (0, 1, 2)
        ... ]
        >>> design = implied({"baseline": "alone", "trials": trials})
        >>> design.family_of("taught").looks, design.reference_of("taught"), design.family_of("alone")
        ((3,), 'alone', None)
    """

    families: tuple[Family, ...] = ()
    current: dict[str, int] = field(default_factory=dict)
    """Cell -> index of its family. References and controls are in none."""

    def family_of(self, cell: str) -> Family | None:
        """The family in which a cell is judged; None for references, controls and sweeps without baseline."""
        index = self.current.get(cell)
        return None if index is None else self.families[index]

    def reference_of(self, cell: str) -> str | None:
        """The cell that a cell is compared with; None as for ``family_of``."""
        family = self.family_of(cell)
        return None if family is None else family.reference_of(cell)

    @property
    def used(self) -> tuple[Family, ...]:
        """The families of the present cells."""
        return tuple(self.families[index] for index in sorted(set(self.current.values())))

    def asked(self, cell: str) -> frozenset[int] | None:
        """The seeds that looks may ask for, of a cell all of whose looks follow from a measured spread; None:
        all seeds of the plan are trained that no look makes needless."""
        families = [
            self.families[index]
            for one, index in self.current.items()
            if one == cell or self.reference_of(one) == cell
        ]
        if not families or any(one.sizing is None or one.unmeasured for one in families):
            return None
        return frozenset(seed for one in families for seed in one.seeds)

    def renamed(self, name: Callable[[str], str], task: str | None = None) -> Design:
        """The same with other names of cells, for tables that call cells by strategy within one task.

        Args:
            task: the task whose families are current; None: all.
        """
        families = tuple(
            replace(
                family,
                references={name(cell): value for cell, value in family.references.items()},
                cells={name(cell): value for cell, value in family.cells.items()},
            )
            if task in (None, family.task)
            else family
            for family in self.families
        )
        current = {
            name(cell): index
            for cell, index in self.current.items()
            if task in (None, self.families[index].task)
        }
        return Design(families, current)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Design:
        """From the content of design.json, which has the shape ``storage.shapes.Design``.

        Raises:
            ValueError: what it says cannot be.
        """
        families, current = tuple(map(Family.from_json, data["families"])), dict(data["current"])
        for cell, index in current.items():
            if not 0 <= index < len(families) or cell not in families[index].cells:
                raise ValueError(
                    f"'current.{cell}': expected the number of a family with this cell, got {index}"
                )
        return cls(families, current)

    def to_json(self) -> dict[str, Any]:
        """The content of design.json."""
        return {"families": [asdict(family) for family in self.families], "current": self.current}


@dataclass(frozen=True)
class Schedule:
    """When a sweep file looks at results.

    Attributes:
        looks: numbers of seeds; None: one look, at all seeds of the plan.
        margin: in points.
        metric: the metric of a task by its name; None: the plan's.
        sizing: how looks are chosen that are not given; ``looks`` then is that of the pilot.
        earlier: the spread that other seeds of a family's cells show; None: too few of them are known.
    """

    looks: tuple[int, ...] | None = None
    margin: float | None = None
    metric: Callable[[str], str] | None = None
    sizing: Sizing | None = None
    earlier: Callable[[Family], float | None] | None = None


def implied(plan: Mapping[str, Any]) -> Design:
    """The design of a plan.json that has no design.json beside it: one look at all of its seeds."""
    return declare(plan, Schedule(), declared="")


def declare(
    plan: Mapping[str, Any],
    schedule: Schedule,
    former: Design | None = None,
    declared: str | None = None,
    identity_of: IdentityOf | None = None,
) -> Design:
    """The design of a sweep whose plan.json is ``plan``.

    Args:
        former: the design so far. Its families that have begun stand; a present cell belongs to one of them
            if it, its reference and its metric are the same as then.
        declared: when; default: now.
        identity_of: the identity of a cell's trial of a seed, for seeds that are not in the plan; None: not
            known.
    """
    trials = [trial for trial in plan["trials"] if (trial.get("phase") or "compare") == "compare"]
    by_seed = {(str(trial["cell"]), trial.get("seed")): str(trial["identity"]) for trial in trials}
    planned = {cell for cell, _ in by_seed}

    def identity(cell: str, seed: int) -> str | None:
        if cell not in planned:
            return None  # the winner of a search that has not ended
        found = by_seed.get((cell, seed))
        return found or (identity_of(cell, seed) if identity_of else None) or ""

    earlier = former.families if former else ()
    kept, current = [family for family in earlier if family.begun], dict[str, int]()
    seeds = tuple(dict.fromkeys(trial.get("seed") for trial in trials))
    looks = schedule.looks or (len(seeds),)
    for task, (references, cells) in compared_cells(plan).items():
        metric = schedule.metric(task) if schedule.metric else str(plan.get("metric"))
        added = []
        for cell in cells:
            found = _member(kept, task, metric, cell, references, identity)
            if found is None:
                added.append(cell)
            else:
                current[cell] = found
                kept[found] = _filled(kept[found], cell, references, identity)
        if added:
            new = Family(
                declared=_now() if declared is None else declared,
                task=task,
                metric=metric,
                looks=tuple(looks),
                margin=schedule.margin,
                unit=1.0 if "loss" in metric else POINT,
                seeds=seeds[: looks[-1]] if schedule.sizing is None else seeds,
                references={cell: identity(cell, seeds[0]) for cell in references},
                cells={cell: identity(cell, seeds[0]) for cell in added},
                overlap=_overlap(plan, {*references, *added}),
                sizing=schedule.sizing,
            )
            spread = schedule.earlier(new) if schedule.sizing and schedule.earlier else None
            new = new if spread is None else new.sized(spread, seeds, earlier=True)
            current.update(dict.fromkeys(added, len(kept)))
            kept.append(next((one for one in earlier if new.declared_as(one)), new))
    return Design(tuple(kept), current)


def compared_cells(plan: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """By task: the references, and the cells compared with them; tasks without baseline are left out."""
    about: dict[str, Entry] = {}
    for trial in plan["trials"]:
        if (trial.get("phase") or "compare") in ("compare", "search"):
            about.setdefault(str(trial["cell"]), trial)
    searched = [cell for cell in plan.get("cells") or () if cell.endswith(SEARCHED)]
    names = dict.fromkeys([*about, *searched])
    tasks: dict[str, list[str]] = {}
    for cell in names:
        trial = about.get(cell) or about.get(cell.removesuffix(SEARCHED)) or {}
        tasks.setdefault(str(trial.get("task") or ""), []).append(cell)
    baseline = plan.get("baseline")
    if baseline is None:
        return {}
    strategy = strategy_name(baseline, _task_axis(about.get(baseline)))
    found = {}
    for task, cells in tasks.items():
        whole = [cell for cell in cells if cell == baseline] if baseline in cells else []
        whole += [cell for cell in cells if strategy_name(cell, _task_axis(about.get(cell))) == strategy]
        if whole:
            references = tuple(cell for cell in (whole[0], searched_name(whole[0])) if cell in cells)
            found[task] = references, tuple(cell for cell in cells if cell not in references)
    return found


def has_begun(family: Family, trials: Iterable[Entry], ended: Collection[str]) -> bool:
    """Whether the first look is complete for one of the strategies.

    Args:
        trials: of the plan.json to which the family belongs.
        ended: identities of trials that have ended.
    """
    first = family.seeds[: family.looks[0]]
    done = {(trial["cell"], trial.get("seed")) for trial in trials if trial["identity"] in ended}
    return any(
        all({(cell, seed), (family.reference_of(cell), seed)} <= done for seed in first)
        for cell in family.cells
    )


def _member(
    families: list[Family],
    task: str,
    metric: str,
    cell: str,
    references: tuple[str, ...],
    identity: IdentityOf,
) -> int | None:
    """The latest of the families in which this very comparison was declared."""
    for index in reversed(range(len(families))):
        family = families[index]
        first, pairs = family.seeds[0], {**family.references, **family.cells}
        if cell not in family.cells or (family.task, family.metric) != (task, metric):
            continue
        reference = family.reference_of(cell)
        if reference not in references:
            continue
        known = [(pairs[one], identity(one, first)) for one in (cell, reference)]
        if all(then is None or now is None or then == now for then, now in known):
            return index
    return None


def _filled(family: Family, cell: str, references: tuple[str, ...], identity: IdentityOf) -> Family:
    """The family with the identities of winners that have become known."""
    first = family.seeds[0]
    return replace(
        family,
        cells={
            one: then or (identity(one, first) if one == cell else None) for one, then in family.cells.items()
        },
        references={
            one: then or (identity(one, first) if one in references else None)
            for one, then in family.references.items()
        },
    )


def _overlap(plan: Mapping[str, Any], cells: Collection[str]) -> float:
    """The largest overlap of splits among these cells, from what plan.json says of chance."""
    chances = plan.get("chance") or ()
    return max((float(one["overlap"] or 0) for one in chances if {*cells} & {*one["cells"]}), default=0.0)


def _task_axis(trial: Entry | None) -> dict[str, Any]:
    axes = (trial or {}).get("axes") or {}
    return {TASK: axes[TASK]} if TASK in axes else {}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
