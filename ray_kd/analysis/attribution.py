"""What each path is worth: Shapley values and leave-one-out over the cells of all subsets of the paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.fixed import fixed_seeds
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.run_files import Row, parse_spec
from ray_kd.analysis.subsets import cells_by_subset, paths_of
from ray_kd.analysis.verdicts import ended_seeds
from ray_kd.config.errors import UserError
from ray_kd.statistics.attribution import Worths, leave_one_out, shapley
from ray_kd.statistics.looks import Judged, Looks, judge


@dataclass(frozen=True)
class PathWorth:
    """One path's part in the metric; a difference of 0 is the path that changes nothing."""

    path: str
    shapley: Judged
    left_out: Judged
    """All paths minus all others."""


@dataclass(frozen=True)
class Attribution:
    """What the paths of one sweep are worth, by the order in which the largest cell has them."""

    comparison: Comparison
    looks: Looks
    """One look; its family is the paths."""
    paths: tuple[PathWorth, ...]
    cells: dict[frozenset[str], str]
    """The cell of each subset."""
    values: dict[int, dict[frozenset[str], float]]
    """What each subset reached, on the seeds that all have."""

    @property
    def lost(self) -> int:
        """Seeds that a cell lost to a failure."""
        return self.paths[0].shapley.lost


def attribution(records: Records, comparison: Comparison, root: Folder) -> Attribution:
    """The worth of each path, judged over the seeds by the rule: one look, and the paths are the family.

    Both values are taken seed by seed. Each has an interval with an error of 5 % divided by the number of
    paths, so that the Shapley values' intervals hold together at 95 %, and so do those of leave-one-out.

    Raises:
        UserError: the cells are not all subsets of their paths, or differ in anything else; the sweep
            declared several looks.
    """
    plan, trials = comparison.plan, records.trials
    compared = trials[trials["phase"] == "compare"]
    planned = [int(seed) for seed in compared["seed"].dropna().unique()]
    fixed = fixed_seeds(comparison, planned, "attribution")
    where = f"only attribution: sweep '{plan.name}'"
    specs = _specs(records, comparison, fixed.seeds, root, where)
    cells = cells_by_subset(specs, where)
    figures = {cell.name: cell.seeds for cell in comparison.cells}
    whole = [seed for seed in fixed.seeds if all(seed in figures[cell] for cell in cells.values())]
    values = {seed: {subset: figures[cell][seed] for subset, cell in cells.items()} for seed in whole}
    ends = [ended_seeds(compared[compared["cell"] == cell]) for cell in cells.values()]
    ended, labels, higher = frozenset.intersection(*ends), paths_of(specs), comparison.metric.mode == "max"
    looks = Looks((len(fixed.seeds),), len(labels), fixed.margin, overlap=fixed.overlap)

    def judged(value: Callable[[Worths], dict[str, float]], path: str) -> Judged:
        by_seed = {seed: value(worths)[path] for seed, worths in values.items()}
        zeros = dict.fromkeys(by_seed, 0.0)
        return judge(looks, fixed.seeds, by_seed, zeros, ended, higher)

    found = tuple(PathWorth(path, judged(shapley, path), judged(leave_one_out, path)) for path in labels)
    return Attribution(comparison, looks, found, cells, values)


def _specs(
    records: Records, comparison: Comparison, seeds: tuple[int, ...], root: Folder, where: str
) -> dict[str, Row]:
    """The recorded spec of each cell, of the first seed of which every cell has one."""
    trials = records.trials
    cells = [cell.name for cell in comparison.cells]
    lacking = ""
    for seed in seeds:
        mine = trials[(trials["phase"] == "compare") & (trials["seed"] == seed)]
        known = dict(zip(mine["cell"].map(str), mine["identity"].map(str), strict=True))
        specs: dict[str, Row] = {}
        for cell in cells:
            spec = parse_spec(root.text(f"runs/{known[cell]}/spec.yaml")) if cell in known else {}
            if not spec:
                lacking = lacking or cell
                break
            specs[cell] = spec
        if len(specs) == len(cells):
            return specs
    raise UserError(
        f"{where}: there is no seed of which every cell's run has a readable spec.yaml, which says what "
        f"paths it has; the first that lacks one is '{lacking}'. Run the sweep first."
    )
