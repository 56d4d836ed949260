"""Which strategies may be the best, and how often each beats its reference: for fixed seeds only."""

from __future__ import annotations

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.headline import NAMED, joined, quoted
from ray_kd.statistics.best import Share, beats
from ray_kd.statistics.looks import Verdict

MOST = 8
"""Strategies whose chances a note lists."""


def chances(comparison: Comparison) -> dict[str, Share]:
    """By strategy, how likely it beats its reference on a new seed; empty where the design cannot ask."""
    if comparison.one_look is None:
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
    found = comparison.contenders
    if found is None or not found.contenders:
        return []
    listed = joined([f"“{name}”" for name in found.may_be_best[:NAMED]])
    if len(found.may_be_best) > NAMED:
        listed = f"{quoted(found.may_be_best[:NAMED])} and {len(found.may_be_best) - NAMED} more (table.csv)"
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
