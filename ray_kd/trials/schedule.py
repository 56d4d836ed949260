"""When a sweep looks at results: what its file says, and what other seeds of its cells have shown."""

from __future__ import annotations

from ray_kd.config.cells import Cell
from ray_kd.config.ending import Ending
from ray_kd.config.plan import Plan, Trial, TrialMaker
from ray_kd.config.seeds import SeedLooks
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import shapes
from ray_kd.trials.design import Schedule
from ray_kd.trials.family import Family, Sizing
from ray_kd.trials.findings import spread_of
from ray_kd.trials.ledger import Ledger


def schedule_of(sweep: SweepSpec, plan: Plan, ledger: Ledger, maker: TrialMaker) -> Schedule:
    """The schedule that a sweep would declare now.

    Args:
        ledger: the sweep's, after ``load``.
    """
    metrics: dict[str, str] = {}
    cells: dict[str, Trial] = {}
    for trial in plan.trials:
        metrics.setdefault(trial.spec.task.component_name, plan.metric_of(trial.spec))
        if trial.phase == "compare":
            cells.setdefault(trial.cell, trial)
    sizing = None
    if isinstance(sweep.seeds, SeedLooks) and sweep.seeds.measured:
        pilot, most, power = sweep.seeds.measured
        sizing = Sizing(pilot, most, power)

    def earlier(family: Family) -> float | None:
        known = {cell: cells[cell] for cell in (*family.references, *family.cells) if cell in cells}
        values = _other_seeds(known, frozenset(sweep.all_seeds), family.metric, ledger, maker)
        found = spread_of(family, values, few=family.looks[0])
        return None if found is None else found.value

    return Schedule(sweep.looks, sweep.margin, metrics.__getitem__, sizing, earlier)


def identity_of(maker: TrialMaker, like: Trial, seed: int) -> str:
    """The identity of the trial of another seed of the same cell."""
    overrides = {key: value for key, value in like.overrides.items() if key != "seed"}
    return maker.make(Cell(name=like.cell, overrides=overrides), seed, "compare").identity


def _other_seeds(
    cells: dict[str, Trial], own: frozenset[int], metric: str, ledger: Ledger, maker: TrialMaker
) -> dict[str, dict[int, float]]:
    """The metric of finished trials of these very cells, of any sweep of the storage, on no seed of ``own``.

    They say nothing of the seeds to come, so that what they show leaves every level as it is.
    """
    known: dict[str, int] = {}
    for name in ledger.store.names("sweeps"):
        plan = ledger.store.find_json(f"sweeps/{name}/plan.json", shapes.Plan) or {}
        known |= {
            str(trial["identity"]): trial["seed"]
            for trial in plan.get("trials") or ()
            if (trial.get("phase") or "compare") == "compare" and trial.get("seed") not in own
        }
    wanted: dict[str, list[tuple[str, int]]] = {}
    for cell, trial in cells.items():
        for seed in sorted(set(known.values())):
            wanted.setdefault(identity_of(maker, trial, seed), []).append((cell, seed))
    values: dict[str, dict[int, float]] = {}
    for identity, outcome in ledger.outcomes(wanted.keys() & known.keys()).items():
        if outcome.status is Ending.FINISHED and metric in outcome.test:
            for cell, seed in wanted[identity]:
                values.setdefault(cell, {})[seed] = outcome.test[metric]
    return values
