"""The seeds of a sweep that fixed them beforehand: what is asked of all cells on the same seeds."""

from __future__ import annotations

from dataclasses import dataclass

from ray_kd.analysis.comparison import Comparison
from ray_kd.config.errors import UserError


@dataclass(frozen=True)
class FixedSeeds:
    """One look, at all of these seeds."""

    seeds: tuple[int, ...]
    margin: float | None
    """As ``Looks`` has it."""
    overlap: float


def fixed_seeds(comparison: Comparison, planned: list[int], question: str) -> FixedSeeds:
    """The seeds that all cells were to have, with the margin that the sweep declared.

    Args:
        planned: the seeds of the compared trials, for a sweep that compares nothing with a baseline.
        question: the part of ``analyze`` that asks, for the message.

    Raises:
        UserError: several looks were declared. Cells then end at different numbers of seeds, where chance
            made them look good or bad.
    """
    plan = comparison.plan
    families = [plan.design.families[index] for index in dict.fromkeys(plan.design.current.values())]
    for family in families:
        if not family.one_look:
            raise UserError(
                f"only {question}: sweep '{plan.name}' looks at {family.plain}, so its cells end at "
                "different numbers of seeds; this question needs one look, a plain list of seeds."
            )
    overlap = max((plan.overlap(cell.name) for cell in comparison.cells), default=0.0)
    if not families:
        return FixedSeeds(tuple(planned), None, overlap)
    first, others = families[0], families[1:]
    seeds = first.seeds[: first.looks[0]]
    common = tuple(seed for seed in seeds if all(seed in other.seeds for other in others))
    return FixedSeeds(common, first.judged_by.margin, overlap)
