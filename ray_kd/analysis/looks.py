"""The verdicts that looks have given so far, from the records of a sweep."""

from __future__ import annotations

from pathlib import Path

from ray_kd.analysis.records import Records
from ray_kd.analysis.tasks import MONITOR
from ray_kd.config.ending import Ending
from ray_kd.storage import Store
from ray_kd.trials.ledger import Ledger
from ray_kd.trials.verdicts import Verdicts


def read_verdicts(records: Records, storage: str | Path, sweep: str) -> Verdicts:
    """The verdict of each strategy of a sweep, from the design that its driver declared.

    Raises:
        UserError: design.json is damaged.
    """
    plan = records.plan
    design = Ledger(Store(str(storage)), sweep).read_design()
    verdicts = Verdicts(design, higher_is_better=plan is None or plan.mode != "min")
    compared = records.trials[records.trials["phase"] == "compare"]
    for row in compared[compared["status"].isin([ending.value for ending in Ending])].to_dict("records"):
        metric = row["monitor"] if plan is None or plan.metric == MONITOR else plan.metric
        value = row.get(f"best_test_{metric}")
        found = None if value is None or value != value else float(value)
        verdicts.note(str(row["cell"]), int(row["seed"]), Ending(row["status"]), found)
    return verdicts
