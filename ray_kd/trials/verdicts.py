"""What the looks of a sweep say of each strategy, and which need more seeds: a function of the records."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from ray_kd.config.ending import Ending
from ray_kd.statistics.intervals import Interval
from ray_kd.statistics.looks import Judged, Verdict, judge
from ray_kd.trials.design import Design

NOT_YET = Judged(Verdict.OPEN, 0, Interval(math.nan, math.nan, math.nan, 0), math.nan)
"""No look has been reached."""


@dataclass
class _Record:
    """The trials of one cell, by seed."""

    values: dict[int, float] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)


class Verdicts:
    """The verdict of each strategy of a design, from the trials that have ended so far.

    A trial that ends costs the same whatever the size of the sweep, but for the looks that it completes.

    Args:
        higher_is_better: of the metric.

    Example:
        >>> from ray_kd.trials.design import implied
        >>> trials = [{"cell": cell, "seed": seed, "phase": "compare", "identity": f"{cell}{seed}"}
        ...           for cell in ("alone", "taught") for seed in (0, 1, 2)]
        >>> verdicts = Verdicts(implied({"baseline": "alone", "trials": trials}))
        >>> for seed, value in enumerate((0.50, 0.51, 0.52)):
        ...     _ = verdicts.note("alone", seed, Ending.FINISHED, value)
        ...     _ = verdicts.note("taught", seed, Ending.FINISHED, value + 0.1 + seed / 1000)
        >>> str(verdicts.of("taught").verdict), verdicts.closed("taught")
        ('better', True)
    """

    def __init__(self, design: Design, higher_is_better: bool = True) -> None:
        self.design, self.higher_is_better = design, higher_is_better
        self._records: dict[str, _Record] = {}
        self._judged: dict[str, Judged] = {}
        self._pairs: dict[str, int] = {}
        """Strategy -> how many of its first seeds have ended, of it and of its reference."""
        self._beside: dict[str, list[str]] = {}
        """Reference -> the strategies that are compared with it."""
        self._open: dict[str, int] = {}
        """Reference -> how many of these are open."""
        self._furthest: dict[str, int] = {}
        """Reference -> the most looks that an open strategy has passed."""
        self._states: dict[int, Counter[str]] = {}
        """Family -> how many of its strategies are open, decided, hopeless, or lost seeds."""
        self._stages: dict[int, Counter[int]] = {}
        """Family -> how many of its open strategies have passed so many looks."""
        self._compared_in: dict[str, set[int]] = {}
        """Reference -> the families of these."""
        self._orders = [{seed: index for index, seed in enumerate(one.seeds)} for one in design.families]
        for cell in design.current:
            reference = str(design.reference_of(cell))
            self._beside.setdefault(reference, []).append(cell)
            self._compared_in.setdefault(reference, set()).add(design.current[cell])
            self._open[reference] = self._open.get(reference, 0) + 1
            self._states.setdefault(design.current[cell], Counter())["open"] += 1
            self._stages.setdefault(design.current[cell], Counter())[0] += 1

    def note(self, cell: str, seed: int, ending: Ending, value: float | None) -> list[str]:
        """A compared trial ended; returns the strategies that reached a look by it.

        Args:
            value: the test metric of its best-on-validation weights; None: it has none.
        """
        if not ending.counts:
            return []
        record = self._records.setdefault(cell, _Record())
        record.ended.add(seed)
        if ending is Ending.FINISHED and value is not None:
            record.values[seed] = value
        affected = [cell] if cell in self.design.current else self._beside.get(cell, [])
        return [strategy for strategy in affected if self._reach(strategy)]

    def of(self, cell: str) -> Judged:
        """The verdict on a strategy at the last look that it reached, or that decided it."""
        return self._judged.get(cell, NOT_YET)

    def passed(self, cell: str) -> int:
        """How many looks a strategy has reached; of a reference the most of its open strategies."""
        family = self.design.family_of(cell)
        if family is None:
            return self._furthest.get(cell, 0)
        return bisect_right(family.looks, self.of(cell).look)

    def closed(self, cell: str) -> bool:
        """Whether more seeds are not needed: of a strategy since it is decided, hopeless or lost seeds; of a
        reference since all of its strategies are closed. Cells outside the design never are."""
        if cell in self.design.current:
            return self.of(cell).settled
        return self._open.get(cell, 1) == 0

    def stage(self, cell: str, seed: int) -> int:
        """The index of the look for which a seed is trained; their number for seeds beyond the last."""
        beside = self._beside.get(cell)
        index = self.design.current.get(beside[0] if beside else cell)
        if index is None:
            return 0
        order = self._orders[index]
        return bisect_right(self.design.families[index].looks, order.get(seed, len(order)))

    def beyond(self, cell: str, seed: int) -> bool:
        """Whether a seed lies beyond the last look that a measured spread asks for, in all its families."""
        indices = self._compared_in.get(cell) or {
            index for index in (self.design.current.get(cell),) if index is not None
        }
        families = [(self.design.families[index], self._orders[index]) for index in indices]
        return bool(families) and all(
            family.sizing is not None
            and not family.unmeasured
            and order.get(seed, len(family.seeds)) >= family.looks[-1]
            for family, order in families
        )

    def piloted(self) -> list[int]:
        """The families whose later looks may be chosen: all of their strategies have passed the first."""
        return [
            index
            for index, counts in self._stages.items()
            if self.design.families[index].unmeasured and not counts[0]
        ]

    def values_of(self, cell: str, seeds: Collection[int]) -> dict[int, float]:
        """The metric of a cell's finished trials of these seeds."""
        values = self._records.get(cell, _Record()).values
        return {seed: values[seed] for seed in seeds if seed in values}

    def judge_again(self, cell: str) -> bool:
        """Judge a strategy whose later looks were chosen; returns whether it has reached one of them."""
        return self._reach(cell)

    def lines(self) -> list[str]:
        """A line for each family with several looks: how many of its strategies are decided, ended, open."""
        return [
            self._line(index)
            for index, family in enumerate(self.design.families)
            if not family.one_look and index in self._states
        ]

    def in_words(self, cell: str) -> str:
        """What the looks say of a strategy, in a few words; empty for a cell that is none."""
        family, judged = self.design.family_of(cell), self.of(cell)
        if family is None:
            return ""
        if not judged.look:
            return f"first at {family.looks[0]}"
        coming = [look for look in family.looks if look > judged.look]
        if judged.settled:
            text = "little hope" if judged.verdict is Verdict.OPEN else str(judged.verdict)
            return f"{text} at {judged.look}"
        then = f"next at {coming[0]}" if coming else "later looks depend" if family.unmeasured else "the last"
        return f"open at {judged.look}, {then}"

    def strategies_of(self, reference: str) -> list[str]:
        """The strategies that are compared with a cell."""
        return self._beside.get(reference, [])

    def _reach(self, cell: str) -> bool:
        family, reference = self.design.family_of(cell), str(self.design.reference_of(cell))
        assert family is not None
        own, other = self._records.get(cell), self._records.get(reference)
        if own is None or other is None or self.closed(cell):
            return False
        n, last = self._pairs.get(cell, 0), family.looks[-1]
        while n < last and family.seeds[n] in own.ended and family.seeds[n] in other.ended:
            n += 1
        self._pairs[cell] = n
        reached, before = bisect_right(family.looks, n), self.passed(cell)
        for look in family.looks[before:reached]:  # the first that closes it stands, whatever ended meanwhile
            first = family.seeds[:look]
            values, reference_values = (self.values_of(one, first) for one in (cell, reference))
            self._judged[cell] = judge(
                family.judged_by, family.seeds, values, reference_values, first, self.higher_is_better
            )
            if self.closed(cell):
                self._open[reference] -= 1
                break
        self._count(cell, before)
        if not self.closed(cell):
            self._furthest[reference] = max(self._furthest.get(reference, 0), reached)
        return reached > before

    def _count(self, cell: str, before: int) -> None:
        """Note the state of an open strategy that had passed ``before`` looks."""
        index, judged = self.design.current[cell], self.of(cell)
        self._stages[index][before] -= 1
        self._states[index]["open"] -= 1
        if self.closed(cell):
            lost = judged.verdict is Verdict.NONE
            state = "decided" if judged.verdict.decided else "lost" if lost else "hopeless"
            self._states[index][state] += 1
        else:
            self._states[index]["open"] += 1
            self._stages[index][self.passed(cell)] += 1

    def _line(self, index: int) -> str:
        family, states = self.design.families[index], self._states[index]
        text = f"{family.task}, looks" if len(self._states) > 1 and family.task else "looks"
        text += f" at {family.plain}: {states['decided']} of {states.total()} strategies decided"
        text += f", {states['hopeless']} ended with little hope of a verdict" if states["hopeless"] else ""
        text += f", {states['lost']} without verdict (lost seeds)" if states["lost"] else ""
        text += f", {states['open']} open" if states["open"] else ""
        coming = [
            stage for stage, count in self._stages[index].items() if count and stage < len(family.looks)
        ]
        return f"{text}; next look at {family.looks[min(coming)]} seeds" if coming else text
