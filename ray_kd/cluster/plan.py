"""The plan of a sweep as a table: which trials would run, and which have ended. Nothing starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ray_kd.cluster.plan_runs import planned_runs
from ray_kd.cluster.plan_sizes import size_lines
from ray_kd.cluster.plan_time import memory_line, processes_of, slots_of, time_line, times_of
from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError
from ray_kd.config.plan import Plan, Trial, TrialMaker, teachers_of
from ray_kd.config.seeds import SeedLooks
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.models.describe import image_notes
from ray_kd.statistics.power import TIMES
from ray_kd.storage import Store
from ray_kd.targets.compute import same_targets
from ray_kd.training.object_records import require_same_runs
from ray_kd.training.other_lengths import length_notes
from ray_kd.training.precompute import gather_work, plan_targets
from ray_kd.training.preflight import check_plan
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import local_context
from ray_kd.trials.design import Design, declare
from ray_kd.trials.findings import can_find
from ray_kd.trials.ledger import Ledger, Outcome
from ray_kd.trials.schedule import schedule_of


def plan_table(
    sweep: SweepSpec, storage: str | None = None, trials: bool = False, probe: bool = False
) -> RenderableType:
    """What ``ray-kd sweep FILE --plan`` prints.

    Args:
        storage: where to look for runs that have ended; default: the base run's.
        trials: print a row for each trial instead of one for each cell.
        probe: time a few steps of each kind of runs of which there are no records, for half a minute.
    """
    if storage is not None:
        sweep = sweep.model_copy(update={"base": {**sweep.base, "storage": storage}})
    plan = sweep.plan()
    check_plan(plan)
    specs = [trial.spec for trial in plan.trials]
    store = Store(specs[0].storage)
    require_same_runs(store, [*plan.teachers, *specs])
    ledger = Ledger(store, sweep.name)
    ledger.load()
    design = _design(sweep, plan, ledger)
    _leave_out(plan, design)
    identities = [*(trial.identity for trial in plan.trials), *(run.identity() for run in plan.teachers)]
    outcomes = ledger.outcomes(set(identities))
    ended = {identity: outcome.status for identity, outcome in outcomes.items()}
    needless = {
        identity
        for identity, entry in ledger.entries.items()
        if entry.get("status") == Ending.NOT_NEEDED and identity not in ended
    }
    states = {**dict.fromkeys(needless, Ending.NOT_NEEDED), **ended}
    table = _table(plan, states, trials)
    done = len({trial.identity for trial in plan.trials} & ended.keys())
    missing = [run for run in plan.teachers if run.identity() not in ended]
    runs = planned_runs(sweep, plan, min((family.looks[0] for family in design.used), default=None))
    fewest = runs.fewest
    gone = len({trial.identity for trial in plan.trials} & needless)
    text = f"{plan.size} trials, of which {done} have ended"
    text += f" and {gone} are not needed; " if gone else "; "
    if fewest < plan.size:
        text = f"{fewest} to {text}"
    text += f"{len(missing)} of {len(plan.teachers)} teachers to train."
    longer = length_notes([spec for spec in specs if spec.identity() not in ended], ledger.store)
    looks = _looks(design, fewest) if isinstance(sweep.seeds, SeedLooks) else []
    said = (*looks, *plan.notes, *longer, *image_notes(specs))
    notes = [Text(f"Note: {note}", style="dim") for note in said]
    lines = [*_findings(sweep, plan, design, outcomes), *size_lines(runs, ProcessCache())]
    slots = slots_of(runs, sweep.concurrency)
    times = times_of(runs, outcomes, processes_of(runs, slots) if probe else 0, store)
    lines.append(time_line(runs, outcomes, times, slots))
    lines += [memory_line(times)] if times.timed else []
    found = [Text(line) for line in lines]
    return Group(table, Text(), Text(text), *found, *notes, *_targets(specs))


def _table(plan: Plan, states: Mapping[str, str], trials: bool) -> Table:
    """A row for each cell, or for each trial, with how its trials have ended."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("cell", "phase", "seeds" if not trials else "seed", "epochs"):
        table.add_column(column)
    table.add_column("identity" if trials else "trials", justify="left" if trials else "right")
    table.add_column("state")
    if trials:
        for trial in plan.trials:
            cells = (Text(trial.cell), _phase(trial), str(trial.seed), str(trial.spec.training.epochs))
            table.add_row(*cells, trial.identity, states.get(trial.identity, "to run"))
    else:
        for (cell, phase), group in _groups(plan.trials).items():
            seeds = _spans(list(dict.fromkeys(trial.seed for trial in group)))
            epochs = ", ".join(str(value) for value in {trial.spec.training.epochs: None for trial in group})
            counts = Counter(states.get(trial.identity, "to run") for trial in group)
            state = ", ".join(f"{count} {status}" for status, count in counts.items())
            table.add_row(Text(cell), phase, seeds, epochs, str(len(group)), state)
    for entry in plan.later:
        table.add_row(Text(entry.cell), entry.phase, "", "", str(entry.count), f"later: {entry.why}")
    return table


def _design(sweep: SweepSpec, plan: Plan, ledger: Ledger) -> Design:
    """The design that stands, or the one that the sweep would declare."""
    schedule = schedule_of(sweep, plan, ledger, TrialMaker(sweep))
    return declare(plan.to_json(), schedule, ledger.read_design())


def _leave_out(plan: Plan, design: Design) -> None:
    """Take the trials from the plan that no look will ask for, since the spread is known."""
    asked = {cell: design.asked(cell) for cell in plan.cells}
    plan.trials = [
        trial
        for trial in plan.trials
        if trial.phase != "compare" or (seeds := asked.get(trial.cell)) is None or trial.seed in seeds
    ]
    plan.teachers = teachers_of(plan.trials)


def _findings(sweep: SweepSpec, plan: Plan, design: Design, outcomes: Mapping[str, Outcome]) -> list[str]:
    """What the design can find."""
    values: dict[str, dict[int, float]] = {}
    for trial in plan.trials:
        metric, outcome = plan.metric_of(trial.spec), outcomes.get(trial.identity)
        if trial.phase != "compare" or outcome is None or outcome.status is not Ending.FINISHED:
            continue
        if metric in outcome.test:
            values.setdefault(trial.cell, {})[trial.seed] = outcome.test[metric]
    return can_find(design, values, sweep.seeds.spread if isinstance(sweep.seeds, SeedLooks) else None)


def _looks(design: Design, fewest: int) -> list[str]:
    """What the looks mean for the number of trials."""
    lines = []
    for family in design.used:
        name = f"{family.task}: results" if len(design.used) > 1 and family.task else "Results"
        text = f"{name} are looked at after {', '.join(map(str, family.looks))} seeds"
        if family.unmeasured and family.sizing is not None:
            least, most = TIMES * family.looks[0], family.sizing.most
            text += f", a pilot, whose spread then sets the later looks, of {least} to {most} seeds"
        elif family.sizing is not None:
            who = "other seeds of these cells" if family.sizing.earlier else "the pilot"
            text += f", as the spread that {who} showed asks for"
        lines.append(f"{text}.")
    if any(len(family.looks) > 1 or family.unmeasured for family in design.used):
        lines[-1] += f" {fewest} trials are enough if the first look decides every strategy."
    return lines


def _spans(seeds: list[int]) -> str:
    """Seeds as text; six or more that count up are shown by the first and the last."""
    parts: list[str] = []
    rest = seeds
    while rest:
        run = next((n for n in range(1, len(rest)) if rest[n] != rest[0] + n), len(rest))
        parts += [f"{rest[0]} to {rest[run - 1]}"] if run > 5 else map(str, rest[:run])
        rest = rest[run:]
    return ", ".join(parts)


def _targets(specs: list[RunSpec]) -> list[RenderableType]:
    """The table of stored targets that the planned trials read; empty where all teachers are live."""
    if not same_targets(specs):
        return []
    title = Text("Stored targets", style="bold")
    try:
        return [Text(), title, targets_table([spec for spec in specs if spec.targets.source == "stored"])]
    except UserError as error:  # such as missing data: the plan is still shown
        return [Text(), title, Text(f"Not estimated: {error}")]


def targets_table(specs: list[RunSpec], name: str = "") -> RenderableType:
    """Rows and bytes of stored targets and the teacher's time, which is measured on a few batches."""
    works = gather_work(specs, local_context(specs[0]), ProcessCache(), trained=False)
    found = plan_targets(works, specs)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("target", "split", "shape", "stored as", "bytes a row", "rows", "in all"):
        left = column in ("target", "split")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in found.rows:
        table.add_row(*map(Text, row))
    return Group(table, Text(), Text(f"{name}: {found.text()}" if name else found.text()))


def _groups(trials: list[Trial]) -> dict[tuple[str, str], list[Trial]]:
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.cell, trial.phase), []).append(trial)
    return groups


def _phase(trial: Trial) -> str:
    return trial.phase if trial.candidate is None else f"{trial.phase} {trial.candidate}"
