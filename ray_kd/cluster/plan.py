"""The plan of a sweep as a table: what would run, and what has ended already. Nothing starts."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ray_kd.cluster.ledger import Ledger
from ray_kd.config.plan import Trial
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.training.check import check_plan


def plan_table(sweep: SweepSpec, storage: str | None = None, trials: bool = False) -> RenderableType:
    """What ``ray-kd sweep FILE --plan`` prints.

    Args:
        storage: where to look for what has ended; default: the base run's.
        trials: a row for each trial; else one for each cell.

    Raises:
        UserError: as ``SweepSpec.plan`` and ``check_plan``.
    """
    plan = sweep.plan()
    check_plan(plan)
    specs = [trial.spec for trial in plan.trials]
    ledger = Ledger(Store(storage or specs[0].storage), sweep.name)
    ledger.load()
    identities = [*(trial.identity for trial in plan.trials), *(run.identity() for run in plan.teachers)]
    ended = {identity: outcome.status for identity, outcome in ledger.outcomes(set(identities)).items()}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("cell", "phase", "seeds" if not trials else "seed", "epochs"):
        table.add_column(column)
    table.add_column("identity" if trials else "trials", justify="left" if trials else "right")
    table.add_column("state")
    if trials:
        for trial in plan.trials:
            cells = (trial.cell, _phase(trial), str(trial.seed), str(trial.spec.training.epochs))
            table.add_row(*cells, trial.identity, ended.get(trial.identity, "to run"))
    else:
        for (cell, phase), group in _groups(plan.trials).items():
            seeds = ", ".join(str(seed) for seed in dict.fromkeys(trial.seed for trial in group))
            epochs = ", ".join(str(value) for value in {trial.spec.training.epochs: None for trial in group})
            states = Counter(ended.get(trial.identity, "to run") for trial in group)
            state = ", ".join(f"{count} {status}" for status, count in states.items())
            table.add_row(cell, phase, seeds, epochs, str(len(group)), state)
    for entry in plan.later:
        table.add_row(entry.cell, entry.phase, "", "", str(entry.count), f"later: {entry.why}")
    done = len({trial.identity for trial in plan.trials} & ended.keys())
    missing = [run for run in plan.teachers if run.identity() not in ended]
    text = f"{plan.size} trials, {done} of them ended already; "
    text += f"{len(missing)} of {len(plan.teachers)} teachers to train."
    notes = [Text(f"Note: {note}", style="dim") for note in plan.notes]
    return Group(table, Text(), Text(text), *notes)


def _groups(trials: list[Trial]) -> dict[tuple[str, str], list[Trial]]:
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.cell, trial.phase), []).append(trial)
    return groups


def _phase(trial: Trial) -> str:
    return trial.phase if trial.candidate is None else f"{trial.phase} {trial.candidate}"
