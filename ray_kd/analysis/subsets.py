"""Which cells of a sweep are which subsets of its paths, as the recorded specs of their runs say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_kd.analysis.run_files import Row, active_paths, path_label, section
from ray_kd.config.errors import UserError
from ray_kd.statistics.attribution import subsets

ELSEWHERE = ("name", "seed", "storage", "resources", "tracking", "checkpoints", "plugins", "code", "paths")
"""Keys of a spec that say where it trains, or that cells may differ in."""
OF_PATHS = ("aggregation", "teachers", "targets")
"""Keys that change nothing in a run without paths."""
NAMED = 4
"""Missing subsets that a message names."""


def cells_by_subset(specs: Mapping[str, Row], where: str) -> dict[frozenset[str], str]:
    """The cell of each subset of the paths, which are told apart by their labels. A path of weight 0 is off.

    Args:
        specs: the recorded spec of each cell, all of one seed.
        where: the beginning of messages.

    Raises:
        UserError: cells that differ in more than which paths they have, two cells of one subset, or a subset
            without a cell.
    """
    _same_settings(specs, where)
    found: dict[frozenset[str], str] = {}
    for cell, spec in specs.items():
        subset = frozenset(path_label(path) for path in active_paths(spec))
        if subset in found:
            raise UserError(f"{where}: cells '{found[subset]}' and '{cell}' both have {shown(subset)}.")
        found[subset] = cell
    labels = paths_of(specs)
    if not labels:
        raise UserError(f"{where}: no cell has a path.")
    missing = [shown(subset) for subset in subsets(labels) if subset not in found]
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise UserError(
            f"{where}: no cell has {'; '.join(missing[:NAMED])}{more}. The value of {len(labels)} paths "
            f"needs a cell for each of the {2 ** len(labels)} subsets: see sweeps/attribution_digits.yaml."
        )
    return found


def paths_of(specs: Mapping[str, Row]) -> list[str]:
    """The labels of all paths that any cell uses, in the order in which the largest cell has them."""
    listed = sorted(([path_label(path) for path in active_paths(spec)] for spec in specs.values()), key=len)
    return list(dict.fromkeys(label for labels in reversed(listed) for label in labels))


def shown(subset: frozenset[str]) -> str:
    """A subset in a sentence."""
    return f"the paths '{' + '.join(sorted(subset))}'" if subset else "no paths"


def _same_settings(specs: Mapping[str, Row], where: str) -> None:
    seen: dict[str, tuple[str, Any]] = {}
    for cell, spec in specs.items():
        for part, value in _settings(spec).items():
            other, before = seen.setdefault(part, (cell, value))
            found = _difference(part, before, value)
            if found:
                raise UserError(
                    f"{where}: cells '{other}' and '{cell}' differ in {found}. Cells may differ in which "
                    "paths they have, and in nothing else."
                )


def _settings(spec: Row) -> Row:
    """All that has to be the same in every cell that has it."""
    active = active_paths(spec)
    left_out = ELSEWHERE if active else (*ELSEWHERE, *OF_PATHS)
    found = {key: value for key, value in spec.items() if key not in left_out}
    if not section(spec, "training").get("sync_batchnorm", True):
        found["resources.workers"] = section(spec, "resources").get("workers")
    for path in active:
        found[f"paths.{path_label(path)}"] = {key: value for key, value in path.items() if key != "label"}
    return found


def _difference(key: str, one: Any, other: Any) -> str:
    """The first key below ``key`` in which two settings differ, with both values; empty: they do not."""
    if isinstance(one, dict) and isinstance(other, dict):
        parts = (_difference(f"{key}.{name}", one.get(name), other.get(name)) for name in {**one, **other})
        return next(filter(None, parts), "")
    return "" if one == other else f"{key} ({one} and {other})"
