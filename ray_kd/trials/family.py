"""Strategies that are declared together, with the looks at which they may be decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ray_kd.config.cells import SEARCHED
from ray_kd.statistics import power
from ray_kd.statistics.looks import Looks

POINT = 0.01
"""One point of a rate."""


@dataclass(frozen=True)
class Sizing:
    """How looks are chosen from the spread of differences from seed to seed, where nobody named it.

    Attributes:
        pilot: seeds of the first look; the later ones are chosen from its spread.
        most: seeds of the last look, at most.
        power: the probability with which the last look finds a difference of the margin, or that there is
            none.
        spread: standard deviation of the differences, in the margin's unit; None: not measured yet; 0: the
            pilot left no strategy whose differences vary, and is the only look.
        earlier: the spread is that of other seeds of the same cells, so that no look is a pilot.
    """

    pilot: int
    most: int
    power: float
    spread: float | None = None
    earlier: bool = False

    @property
    def asked(self) -> Sizing:
        """The same before anything is measured."""
        return replace(self, spread=None, earlier=False)


@dataclass(frozen=True)
class Family:
    """Strategies of one task that were declared together; all their intervals hold together.

    Attributes:
        declared: when, in UTC (ISO 8601).
        task: the name of the task that its trials train.
        metric: the metric that is compared; ``monitor``: the task's own.
        looks: numbers of seeds, increasing; until a pilot's spread is measured its look alone.
        margin: half the width of what counts as the same, in units of ``unit``; None: nothing counts as it.
        unit: what one of the margin is in the metric's own unit: 0.01 for a rate, 1 for a loss.
        seeds: in the order in which looks take them; those of the last look, and no more; until a pilot's
            spread is measured as many as there may be.
        references: the cells that others are compared with, the baseline first, then the winner of its search
            if it is searched; with the identity of the trial of the first seed (None: not known yet, since a
            search has not ended).
        cells: the strategies that are compared, likewise.
        begun: a first look is complete, so that the family stands.
        overlap: samples that test for each that trains, where each seed has a split of its own, else 0.
        sizing: how looks are chosen that were not given; None: they were.
    """

    declared: str
    task: str
    metric: str
    looks: tuple[int, ...]
    margin: float | None
    unit: float
    seeds: tuple[int, ...]
    references: dict[str, str | None]
    cells: dict[str, str | None]
    begun: bool = False
    overlap: float = 0.0
    sizing: Sizing | None = None

    @property
    def judged_by(self) -> Looks:
        """The looks as ``judge`` takes them; m is the number of strategies, references not counted."""
        margin = None if self.margin is None else self.margin * self.unit
        pilot = self.sizing is not None and not self.sizing.earlier
        return Looks(self.looks, len(self.cells), margin, self.overlap, pilot)

    @property
    def unmeasured(self) -> bool:
        """Whether its later looks are not chosen yet."""
        return self.sizing is not None and self.sizing.spread is None

    @property
    def one_look(self) -> bool:
        """Whether its seeds were fixed beforehand: it has one look, and never more."""
        return len(self.looks) == 1 and self.sizing is None

    def sized(self, spread: float, seeds: tuple[int, ...], earlier: bool = False) -> Family:
        """The family with the looks that its sizing asks for at this spread, in the margin's unit.

        Args:
            seeds: as many as there may be.
            earlier: see ``Sizing``.
        """
        assert self.sizing is not None
        assert self.margin is not None
        asked, first = self.sizing, Looks(self.looks, len(self.cells), self.margin, pilot=True)
        if earlier:
            looks = power.derived(self.margin, spread, len(self.cells), asked.power, asked.most).at
        else:
            looks = power.after_pilot(first, spread, asked.most, asked.power).at if spread > 0 else self.looks
        known = replace(asked, spread=spread, earlier=earlier)
        return replace(self, looks=looks, seeds=seeds[: looks[-1]], sizing=known)

    def reference_of(self, cell: str) -> str:
        """The cell that ``cell`` is compared with: for the winner of a search that of the baseline's own."""
        known = list(self.references)
        return known[-1] if cell.endswith(SEARCHED) else known[0]

    def declared_as(self, former: Family) -> bool:
        """Whether a former declaration says the same; what was measured since then does not count."""
        same = replace(self, declared=former.declared)
        if self.sizing is not None and former.sizing is not None and self.sizing.asked == former.sizing.asked:
            same = replace(same, looks=former.looks, seeds=former.seeds, sizing=former.sizing)
        return same == former

    @property
    def plain(self) -> str:
        """Its looks and margin as text: ``10, 16, 25 seeds, margin 1``."""
        text = f"{', '.join(map(str, self.looks))} seed{'s' if self.looks[-1] > 1 else ''}"
        if self.sizing is not None and self.sizing.spread is None:
            text += f", a pilot, and up to {self.sizing.most}"
        return text if self.margin is None else f"{text}, margin {self.margin:g}"

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Family:
        """From an entry of design.json.

        Raises:
            ValueError: what it says cannot be.
        """
        lists = {key: tuple(entry[key]) for key in ("looks", "seeds")}
        sizing = entry.get("sizing")
        known = {field.name: entry[field.name] for field in fields(cls) if field.name in entry}
        family = cls(**{**known, **lists, "sizing": None if sizing is None else Sizing(**sizing)})
        looks = family.judged_by  # refuses looks and margins that cannot be
        if len(family.seeds) < looks.at[-1] or not family.references:
            raise ValueError(
                f"a family with looks at {family.plain}, {len(family.seeds)} seeds and "
                f"{len(family.references)} references"
            )
        return family
