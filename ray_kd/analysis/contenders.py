"""Which strategies may be the best, and how often each beats its reference: for fixed seeds only."""

from __future__ import annotations

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.headline import joined, quoted
from ray_kd.statistics.best import Best, Share, beats, best
from ray_kd.statistics.looks import Verdict
from ray_kd.trials.family import Family

MOST = 8
"""Strategies whose chances a note lists."""


def contenders(comparison: Comparison) -> Best | None:
    """Simultaneous comparison with the best, over all cells; None where the design cannot ask that.

    It can where all strategies were declared together, with one look, and all of its trials have ended: with
    several looks strategies stop at different numbers of seeds, where chance made them look good or bad.
    """
    family = _one_look(comparison)
    if family is None:
        return None
    values = {cell.name: cell.seeds for cell in comparison.cells}
    return best(family.judged_by, family.seeds, values, comparison.metric.mode == "max")


def _one_look(comparison: Comparison) -> Family | None:
    versus = [cell.versus for cell in comparison.cells if cell.versus is not None]
    if not versus or any(one.family is not versus[0].family for one in versus):
        return None
    family = versus[0].family
    n = family.looks[0]
    if not family.one_look or n < 2 or any(one.judged.look != n for one in versus):
        return None
    return family


def chances(comparison: Comparison) -> dict[str, Share]:
    """By strategy, how likely it beats its reference on a new seed; empty where ``contenders`` is None."""
    if _one_look(comparison) is None:
        return {}
    values = {cell.name: cell.seeds for cell in comparison.cells}
    found = {}
    for cell in comparison.cells:
        if cell.versus is not None and cell.versus.verdict is not Verdict.NONE:
            reference = values[cell.versus.reference]
            common = cell.versus.seeds(cell.seeds, reference)
            own, other = ({seed: of[seed] for seed in common} for of in (cell.seeds, reference))
            found[cell.name] = beats(own, other, comparison.metric.mode == "max")
    return found


def contender_notes(comparison: Comparison) -> list[str]:
    """A sentence on the set that may be best; empty where the design cannot ask."""
    found = contenders(comparison)
    if found is None or not found.contenders:
        return []
    listed = joined([f"“{name}”" for name in found.may_be_best])
    total = f"of all {len(found.contenders)}" if not found.lost else f"of {len(found.contenders)} strategies"
    by = "by simultaneous comparison with the best at 95 % (Hsu, 1984)"
    text = f"{listed} has the best true mean {total}, {by}."
    if len(found.may_be_best) > 1:
        text = f"May have the best true mean, {total}, {by}: {listed}."
    if found.lost:
        text += f" Not compared, since they lack seeds: {quoted(found.lost)}."
    shares = list(chances(comparison).items())
    if not shares:
        return [text]
    parts = [
        f"“{name}” {100 * share.low:.0f} to {100 * share.high:.0f} % ({share.wins} of {share.n} seeds)"
        for name, share in shares[:MOST]
    ]
    more = "; the others: table.csv" if len(shares) > MOST else ""
    lead = "Chance of being better than the reference on a new seed, each with an interval of 95 % by itself"
    return [text, f"{lead}: {', '.join(parts)}{more}."]
