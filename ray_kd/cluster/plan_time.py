"""How long a plan's runs take on this machine's slots: from records of runs alike, or from timed steps."""

from __future__ import annotations

import heapq
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import yaml

from ray_kd.cluster.capacity import slots
from ray_kd.cluster.plan_runs import Alike, PlannedRuns, pace_key, spans
from ray_kd.config.ending import Ending
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.words import sized, spell
from ray_kd.storage import Store
from ray_kd.training.records import find_summary
from ray_kd.training.timing import EACH, time_side_by_side
from ray_kd.trials.ledger import Outcome

SECONDS = 30.0
"""For which kinds of runs are timed, about; those that are left then count as the mean of the others."""
OTHERS = 300
"""The most runs outside the plan whose records are read."""


@dataclass(frozen=True)
class Times:
    """Seconds of a run of each kind.

    Attributes:
        each: in the order of ``PlannedRuns.alike``; None: not known.
        recorded, timed: how many of them are from records, and from timed steps.
        failed: why a kind could not be timed; empty: none failed.
        memory, gpu_memory: the most bytes of a process that timed some.
    """

    each: list[float | None]
    recorded: int
    timed: int = 0
    failed: str = ""
    memory: int = 0
    gpu_memory: int = 0


def times_of(
    runs: PlannedRuns, outcomes: Mapping[str, Outcome], probe: int = 0, store: Store | None = None
) -> Times:
    """What is known of the time of each kind of runs, by records first.

    Args:
        probe: in how many processes at once a few steps of the kinds without records are timed, the ones with
            most steps first; 0: not at all.
        store: where runs of other sweeps are looked for; None: only the plan's own count.
    """
    keys = [pace_key(one.spec) for one in runs.alike]
    paces = _paces(runs, keys, outcomes)
    if store is not None and not paces.keys() >= set(keys):
        paces |= _paces_of_others(runs, set(keys) - paces.keys(), store)
    each: list[float | None] = [
        paces[key] * one.spec.training.epochs + EACH if key in paces else None
        for one, key in zip(runs.alike, keys, strict=True)
    ]
    left = [index for index, value in enumerate(each) if value is None]
    recorded = len(each) - len(left)
    if not probe or not left:
        return Times(each, recorded)
    left.sort(key=lambda index: -_weight(runs.alike[index]))
    timings = time_side_by_side([runs.alike[index].spec for index in left], probe, SECONDS)
    for index, several in zip(left, timings, strict=True):
        seconds = [timing.seconds for timing in several if timing.seconds is not None]
        each[index] = sum(seconds) / len(seconds) if seconds else None
    timed = sum(value is not None for value in each) - recorded
    every = [timing for several in timings for timing in several]
    failed = next((timing.failed for timing in every if timing.failed), "")
    memory, on_gpu = (max(getattr(timing, name) for timing in every) for name in ("memory", "gpu_memory"))
    return Times(each, recorded, timed, failed, memory, on_gpu)


def time_line(runs: PlannedRuns, outcomes: Mapping[str, Outcome], times: Times, slots: int) -> str:
    """The time that is left on so many slots, in a sentence or two."""
    unended = [one for one in runs.alike if one.runs.keys() - outcomes.keys()]
    if not unended and not runs.later:
        return "Time: nothing is left to train."
    if not slots:
        return "Time is not estimated: no slot of this machine holds these trials."
    known = times.recorded + times.timed
    if not known and times.failed:
        return f"Time is not estimated: {times.failed}"
    if not known:
        return (
            "Time is not estimated: no run like these has ended here. --probe times a few steps of each kind."
        )
    walls = [wall(runs, outcomes, times.each, slots, fewest) for fewest in (True, False)]
    how = [f"records of {times.recorded}"] * bool(times.recorded)
    how += [f"timed steps of {times.timed}"] * bool(times.timed)
    text = f"Time: about {spans(walls, spell)} on {slots} slot{'s' * (slots > 1)} like this machine's, "
    text += f"teachers included; from {' and '.join(how)} of {len(times.each)} kinds of runs"
    text += "" if known == len(times.each) else ", the others taken as their mean"
    return f"{text}. Ray's start and stored targets come on top."


def memory_line(times: Times) -> str:
    """The memory of a trial, as the processes needed it that timed some."""
    text = f"Memory of a timed run: up to {sized(times.memory)} with PyTorch and the data"
    if times.gpu_memory:
        text += f", and {sized(times.gpu_memory)} of the GPU's"
    return f"{text}."


def wall(
    runs: PlannedRuns,
    outcomes: Mapping[str, Outcome],
    each: list[float | None],
    slots: int,
    fewest: bool = False,
) -> float:
    """Seconds until the runs that have not ended have, on so many slots, each after its teachers."""
    known = [value for one, value in zip(runs.alike, each, strict=True) if value is not None]
    students = [
        value for one, value in zip(runs.alike, each, strict=True) if value is not None and not one.teacher
    ]
    mean = sum(students or known) / len(students or known)
    free, ends, waiting = [0.0] * slots, dict[str, float](), list[tuple[float, float]]()

    def place(begin: float, seconds: float) -> float:
        end = max(heapq.heappop(free), begin) + seconds
        heapq.heappush(free, end)
        return end

    for one, value in zip(runs.alike, each, strict=True):
        seconds = mean if value is None else value
        for identity, needed in one.runs.items():
            if identity in outcomes or (fewest and identity not in one.fewest):
                continue
            ready = max((ends.get(teacher, 0.0) for teacher in needed), default=0.0)
            if one.teacher:
                ends[identity] = place(ready, seconds)
            else:
                waiting.append((ready, seconds))
    for ready, seconds in sorted(waiting, key=lambda run: (run[0], -run[1])):
        place(ready, seconds)
    for _ in range(runs.later_fewest if fewest else runs.later):
        place(0.0, mean)
    return max(free)


def slots_of(runs: PlannedRuns, concurrency: int | None) -> int:
    """How many of these runs train at the same time on the CPUs and GPUs that Ray finds on this machine."""
    machine = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    there = min(slots(one.spec, [machine]) for one in runs.alike)
    return min(there, concurrency or there)


def processes_of(runs: PlannedRuns, slots: int) -> int:
    """In how many processes steps are timed at once: as many as train at once, on GPUs those of one GPU."""
    asked = [one.spec.resources for one in runs.alike]
    workers = slots * min(resources.workers for resources in asked)
    return min([workers, *(max(1, int(1 / resources.gpus)) for resources in asked if resources.gpus)])


def _paces(runs: PlannedRuns, keys: list[str], outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """Mean seconds of an epoch by what makes them alike, from the plan's runs that have finished."""
    found: dict[str, list[float]] = {}
    for one, key in zip(runs.alike, keys, strict=True):
        ended = [outcomes[identity] for identity in one.runs if identity in outcomes]
        paces = [outcome.seconds / outcome.epochs for outcome in ended if _whole(outcome)]
        if paces:
            found.setdefault(key, []).extend(paces)
    return {key: sum(paces) / len(paces) for key, paces in found.items()}


def _paces_of_others(runs: PlannedRuns, wanted: set[str], store: Store) -> dict[str, float]:
    """The same of runs outside the plan, of other seeds or lengths; none with plug-ins that these lack."""
    own = {identity for one in runs.alike for identity in one.runs}
    like = runs.alike[0].spec
    found: dict[str, list[float]] = {}
    for identity in [name for name in store.names("runs") if name not in own][:OTHERS]:
        summary = find_summary(store, identity)
        if summary is None or not _whole(outcome := Outcome.of(summary)):
            continue
        try:
            data = yaml.safe_load(store.read(f"runs/{identity}/spec.yaml"))
            if any(list(data.get(key) or ()) != list(getattr(like, key)) for key in ("plugins", "code")):
                continue  # reading its spec would import what this sweep does not name
            key = pace_key(RunSpec.parse(data))
        except (FileNotFoundError, UserError, AttributeError, yaml.YAMLError):
            continue
        if key in wanted:
            found.setdefault(key, []).append(outcome.seconds / outcome.epochs)
    return {key: sum(paces) / len(paces) for key, paces in found.items()}


def _whole(outcome: Outcome) -> bool:
    return outcome.status is Ending.FINISHED and outcome.epochs > 0 and outcome.seconds > 0


def _weight(one: Alike) -> float:
    return len(one.runs) * one.spec.training.epochs
