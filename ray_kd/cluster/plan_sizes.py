"""What a plan's runs read, and what they leave: samples, parameters, bytes."""

from __future__ import annotations

import torch

from ray_kd.cluster.plan_runs import Alike, PlannedRuns, size_key, spans
from ray_kd.config.errors import UserError
from ray_kd.config.words import sized
from ray_kd.data.base import Dataset
from ray_kd.data.sample_checks import SPLITS
from ray_kd.training.footprint import Footprint, footprint
from ray_kd.training.process_cache import ProcessCache

SHOWN = 4
"""The most different networks of a kind that are named."""


def footprints(runs: PlannedRuns, cache: ProcessCache) -> dict[int, Footprint]:
    """The sizes of each kind of runs, by its ``id``; networks of the same sizes are built once.

    Raises:
        UserError: data that are missing.
    """
    found: dict[str, Footprint] = {}
    keys = {id(one): size_key(one.spec) for one in runs.alike}
    for one in runs.alike:
        if keys[id(one)] not in found:
            found[keys[id(one)]] = footprint(one.spec, _dataset(one, cache))
    return {kind: found[key] for kind, key in keys.items()}


def size_lines(runs: PlannedRuns, cache: ProcessCache) -> list[str]:
    """Samples of the splits, parameters, bytes by kind, and memory, in sentences; nothing trains."""
    splits: dict[str, None] = {}
    taught: dict[str, None] = {}
    try:
        found = footprints(runs, cache)
        for one in runs.alike:
            dataset = _dataset(one, cache)
            counts = ", ".join(f"{len(getattr(dataset, name)):,} {name}" for name in SPLITS)
            (taught if one.teacher else splits)[f"{one.spec.dataset.component_name}: {counts}"] = None
    except (UserError, OSError, ImportError) as error:  # such as missing data: the plan is still shown
        return [f"Sizes are not estimated: {str(error).splitlines()[0]}"]

    def of(one: Alike) -> Footprint:
        return found[id(one)]

    trials = [of(one) for one in runs.alike if not one.teacher]
    own = [text for text in taught if text not in splits]
    data = f"Splits: {'; '.join(splits)}." + (f" Of teachers: {'; '.join(own)}." if own else "")
    weights = runs.total(lambda one: of(one).weights)
    records = runs.total(lambda one: of(one).records)
    states = max(2 * of(one).state for one in runs.alike)
    memory = max(size.memory for size in map(of, runs.alike))
    kept = (
        f"Files: {spans(weights, sized)} of weights and {spans(records, sized)} of records, tables and plots "
        f"apart; a run keeps up to {sized(states)} of states while it trains."
    )
    held = (
        f"Memory of a trial: up to {sized(memory)} for networks, gradients and moments, besides activations."
    )
    return [data, _parameters(trials), kept, held]


def _dataset(one: Alike, cache: ProcessCache) -> Dataset:
    """A run's data, which are not downloaded if they are missing: a plan fetches nothing."""
    options = one.spec.dataset
    if hasattr(options, "download"):
        options = options.model_copy(update={"download": False})
    return cache.dataset(options, torch.device("cpu"))


def _parameters(trials: list[Footprint]) -> str:
    students = _listed(sorted({size.student for size in trials}))
    teachers = _listed(sorted({count for size in trials for count in size.teachers.values()}))
    most = max(size.adapters for size in trials)
    text = f"Parameters: {students} of the student"
    text += f", up to {most:,} of paths and aggregator" if most else ""
    return f"{text}, {teachers} of the teacher." if teachers else f"{text}."


def _listed(counts: list[int]) -> str:
    if len(counts) > SHOWN:
        return f"{counts[0]:,} to {counts[-1]:,}"
    return " or ".join(f"{count:,}" for count in counts)
