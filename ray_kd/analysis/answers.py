"""Further questions that records answer, each by a table and a figure: ``analyze --only`` has their names."""

from __future__ import annotations

from collections.abc import Callable

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
from ray_kd.analysis.variance import variance, variance_answer

QUESTIONS: dict[str, Callable[[Records, Comparison, Folder], Answer]] = {
    "variance": lambda records, comparison, root: variance_answer(variance(records, comparison)),
    "attribution": lambda *asked: attribution_answer(attribution(*asked)),
    "budget": lambda *asked: budget_answer(budget(*asked)),
    "cost": lambda records, comparison, root: cost_answer(cost(records, comparison)),
}
"""By name; each takes the records and the comparison of one task, and the storage."""
