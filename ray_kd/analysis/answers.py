"""Further questions that records answer, each by a table and a figure: ``analyze --only`` has their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ray_kd.analysis.answer import Answer
from ray_kd.analysis.attribution import attribution
from ray_kd.analysis.attribution_table import attribution_answer
from ray_kd.analysis.budget import budget
from ray_kd.analysis.budget_table import budget_answer
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.cost import cost
from ray_kd.analysis.cost_table import cost_answer
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.variance import variance, variance_csv, variance_markdown, variance_picture


def _variance(records: Records, comparison: Comparison, root: Folder) -> Answer:
    found = variance(records, comparison)
    return Answer(variance_markdown(found), variance_csv(found), partial(variance_picture, found))


def _attribution(records: Records, comparison: Comparison, root: Folder) -> Answer:
    return attribution_answer(attribution(records, comparison, root))


def _budget(records: Records, comparison: Comparison, root: Folder) -> Answer:
    return budget_answer(budget(records, comparison, root))


def _cost(records: Records, comparison: Comparison, root: Folder) -> Answer:
    return cost_answer(cost(records, comparison))


QUESTIONS: dict[str, Callable[[Records, Comparison, Folder], Answer]] = {
    "variance": _variance,
    "attribution": _attribution,
    "budget": _budget,
    "cost": _cost,
}
"""By name; each takes the records and the comparison of one task, and the storage."""
