"""What the intervals over seeds cover, in one line; and the noise of arithmetic beside that of seeds."""

from __future__ import annotations

from typing import Any

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.headline import joined, number, quoted
from ray_kd.analysis.records import Plan
from ray_kd.config.chance import SOURCES

NAMES = {
    "student": "the student's initialisation and order",
    "teacher": "its teacher",
    "labels": "which labels are kept",
    "split": "which samples train, validate and test",
    "views": "the draws of augmentation",
}
MOST = 6
"""Cells that a sentence names; of more it says how many they are."""


def chance_notes(comparison: Comparison) -> list[str]:
    """What the intervals cover, and for each repeated cell the noise of arithmetic beside that of seeds."""
    unit = f" {comparison.metric.points}".rstrip()
    lines = covers(comparison.plan)
    for one in comparison.repeats:
        own, other = (number(comparison, value) for value in (one.arithmetic, one.seeds))
        lines.append(
            f"Noise: runs of “{one.cell}” that differ in the last bits of their initial weights alone "
            f"(“{one.control}”, seeds: {one.n}) have a standard deviation of {own}{unit} in test "
            f"{comparison.metric.title}, runs of different seeds one of {other}{unit}."
        )
    return lines


def covers(plan: Plan) -> list[str]:
    """What each seed redraws, and so what an interval over seeds covers; empty where the plan does not say.

    A sentence for all cells that redraw the same. Source: Bouthillier et al., MLSys 2021, arXiv 2103.03098.
    """
    several = len(plan.chance) > 1
    return [_sentence(entry, several) for entry in plan.chance]


def _sentence(entry: dict[str, Any], several: bool) -> str:
    fixed, cells = entry["fixed"], entry["cells"]
    drawn = [NAMES[source] for source in entry["vary"] if source not in fixed]
    names = NAMES
    if NAMES["split"] in drawn:  # a teacher that is trained here trains on the split of its students
        names = {**NAMES, "teacher": NAMES["teacher"] + ("" if "teacher" in fixed else "'s own draws")}
    same = [
        f"{names[source]} ({fixed[source]})" if source in fixed else names[source]
        for source in SOURCES
        if source not in entry["vary"] or source in fixed
    ]
    who = quoted(cells) if len(cells) <= MOST else f"{len(cells)} cells"
    text = f"{f'{who}: each' if several else 'Each'} seed redraws {joined(drawn) or 'nothing'}; "
    text += "intervals cover that and no more."
    if same:
        text += f" The same for all seeds: {joined(same)}."
    if entry["overlap"]:
        if "given" in fixed.get("teacher", ""):
            text += " The given teacher may have trained on samples that test here."
        text += (
            " The splits of two seeds overlap, so the variance of a mean over n seeds is taken as "
            f"(1/n + {entry['overlap']:.2f}) s² instead of s²/n (Nadeau and Bengio, 2003)."
        )
    return text
