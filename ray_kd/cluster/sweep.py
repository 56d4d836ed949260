"""run_sweep: train all trials of a sweep that have not ended, with Ray Tune."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ray_kd.cluster.quiet import quiet
from ray_kd.config.ending import Ending, exit_code
from ray_kd.config.errors import UserError
from ray_kd.config.faults import EnvironmentFault
from ray_kd.config.names import one_line, print_plain
from ray_kd.config.plan import Plan
from ray_kd.config.sweep import SweepSpec
from ray_kd.config.words import clock
from ray_kd.config.yamlio import apply_overrides
from ray_kd.storage import Lock, Store
from ray_kd.teacher.load import is_whole
from ray_kd.tracking.wandb import require_wandb
from ray_kd.training.object_records import require_same_runs
from ray_kd.training.other_lengths import length_notes
from ray_kd.training.preflight import check_plan
from ray_kd.training.records import read_whole
from ray_kd.trials.ledger import Ledger
from ray_kd.trials.trial_queue import TrialQueue


@dataclass
class SweepResult:
    """The state of a sweep after ``run_sweep``.

    Attributes:
        storage: where its records lie; ``ray_kd.read_records(storage, name)`` reads them.
        total, finished, failed, stopped: numbers of trials by identity, those of earlier calls included.
        blocked: trials whose teacher failed.
        not_needed: trials of seeds that no strategy needs any more, since looks have decided.
        unfinished: all other trials: interrupted, given up after a fault of the machine, or not begun.
        started: trials and teachers that this call started.
        failures: ``{"ending", "cell", "seed", "reason", "error"}`` of each trial that failed, is blocked, or
            met a fault of the machine; error: the path of its traceback.
        interrupted: it was asked to stop (Ctrl-C); the same call resumes it.
        out_of_time: ``until_time`` is over; the same call goes on.
        looks: what looks have decided, a line for each family of strategies that has several looks.
        warmup_seconds: from the call to the first trial's first step; 0 if nothing was started.
        training_seconds: from there to the end of the last trial.
    """

    name: str
    storage: str
    total: int = 0
    finished: int = 0
    failed: int = 0
    stopped: int = 0
    blocked: int = 0
    not_needed: int = 0
    started: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    out_of_time: bool = False
    looks: tuple[str, ...] = ()
    warmup_seconds: float = 0.0
    training_seconds: float = 0.0

    @property
    def unfinished(self) -> int:
        """Trials that have not ended; the same call trains them."""
        ended = self.finished + self.failed + self.stopped + self.blocked
        return self.total - self.not_needed - ended

    @property
    def complete(self) -> bool:
        """Whether every trial that is needed has ended."""
        return not self.interrupted and not self.unfinished

    @property
    def exit_code(self) -> int:
        """0: all trials finished; 1: one failed; 3: one is unfinished, or time is over; 130: interrupted."""
        found = [ending for ending in Ending if getattr(self, ending.name.lower())]
        return 130 if self.interrupted else exit_code(found)

    def message(self) -> str:
        """What to tell the user at the end, in a few lines."""
        lines = [f"{self.name}: {self.finished} of {self.total - self.not_needed} trials finished"]
        lines[0] += f", {self.failed} failed" if self.failed else ""
        lines[0] += f", {self.blocked} blocked" if self.blocked else ""
        lines[0] += f", {self.stopped} stopped early" if self.stopped else ""
        lines[0] += f", {self.unfinished} unfinished" if self.unfinished else ""
        lines[0] += f", {self.not_needed} not needed" if self.not_needed else ""
        lines[0] += f" ({self.started} started now, {clock(self.training_seconds)})" if self.started else ""
        reasons: dict[tuple[Ending, str, str | None], list[str]] = {}
        for failure in self.failures:
            trial = f"{one_line(failure['cell'])}, seed {failure['seed']}"
            reasons.setdefault((failure["ending"], failure["reason"], failure["error"]), []).append(trial)
        for (ending, reason, error), who in list(reasons.items())[:5]:
            more = f" and {len(who) - 1} more" if len(who) > 1 else ""
            lines.append(f"  {ending}: {who[0]}{more}: {_last_line(reason)}")
            if error:
                lines.append(f"    traceback: {self.storage}/{error}")
        if len(reasons) > 5:
            lines.append(f"  ... and {len(reasons) - 5} more; 'ray-kd status' lists them.")
        lines += [f"  {line}" for line in self.looks]
        if not self.complete:
            ended = self.total - self.unfinished - self.not_needed
            word = "Stopped. " if self.interrupted else "Time is over. " if self.out_of_time else ""
            lines.append(f"{word}{ended} trials are kept; the same command resumes the others.")
        return "\n".join(lines)


def _last_line(reason: str | None) -> str:
    """A reason in one line: the last line of a traceback."""
    lines = (reason or "").strip().splitlines() or ["no reason given"]
    return lines[-1] if len(lines[-1]) <= 300 else f"{lines[-1][:300]} ..."


def run_sweep(
    spec: SweepSpec | str | Path,
    *overrides: str,
    address: str | None = None,
    storage: str | None = None,
    progress: bool = True,
    retry_failed: bool = False,
    until_time: float | None = None,
    console: Console | None = None,
) -> SweepResult:
    """Train all trials of a sweep that have not ended. A second call starts no trial that has ended.

    Args:
        spec: a sweep file, or a SweepSpec.
        *overrides: ``key=value``; ``base.optimizer.lr=0.05`` reaches the runs.
        address: a running Ray cluster to join; default: start Ray here, or use what this process has.
        storage: where records are written; default: the base run's ``storage``.
        progress: show a live panel on a terminal, else a line every ten seconds.
        retry_failed: train failed trials again.
        until_time: seconds after which it stops as after Ctrl-C: trials that run save their state, and the
            same call goes on; None: as long as it takes.
        console: where to show the progress; default: standard error.

    Raises:
        UserError: the sweep cannot be planned, another process runs it, or no machine is large enough.
        EnvironmentFault: the storage cannot be read or written; the same call resumes.

    Example:
        >>> from ray_kd import distill
        >>> base = {"dataset": "digits", "student": "digits_cnn", "training": {"epochs": 1}}
        >>> sweep = SweepSpec.parse({"name": "one", "base": base, "cells": {"plain": {}}, "seeds": [0]})
        >>> summary = distill(sweep.plan().trials[0].spec)  # the sweep finds this run
        >>> run_sweep(sweep, progress=False).finished
        1
    """
    called = time.monotonic()
    sweep = _resolve(spec, overrides, storage)
    store = Store(str(sweep.base["storage"]))
    plan = _checked_plan(sweep, store)
    screen = (console or Console(stderr=True)) if progress else None
    with _only_driver(store, sweep.name, screen):
        ledger = Ledger(store, sweep.name)
        ledger.load()
        queue = TrialQueue(sweep, plan, ledger, retry_failed=retry_failed)
        while not queue.over and _forget_damaged_teachers(queue, store):  # and then theirs
            queue = TrialQueue(sweep, sweep.plan(), ledger, retry_failed=retry_failed)
        _say_before(queue, store, screen)
        _train(queue, address, screen, None if until_time is None else called + until_time)
        result = _result(queue, store, called)
        if screen is not None:
            print_plain(screen, "\n".join([result.message(), *_data_notes(queue, store)]))
        try:
            ledger.flush()
        except EnvironmentFault:
            if result.complete:
                raise
        return result


def _checked_plan(sweep: SweepSpec, store: Store) -> Plan:
    plan = sweep.plan()
    check_plan(plan)
    for trial in plan.trials:
        require_wandb(trial.spec)
    require_same_runs(store, [*plan.teachers, *(trial.spec for trial in plan.trials)])
    return plan


def _say_before(queue: TrialQueue, store: Store, screen: Console | None) -> None:
    """What a person should know before trials start: runs of other lengths, and what stands declared."""
    if screen is not None:
        specs = [job.spec for job in queue.jobs.values() if job.state != "done"]
        for line in (*length_notes(specs, store), *queue.looks.remarks()):
            print_plain(screen, f"{queue.sweep.name}: {line}")


def _data_notes(queue: TrialQueue, store: Store) -> list[str]:
    """What users should know of the data: workers, which read it, say nothing on this screen."""
    runs = {str(job.spec.dataset.full()): job for job in queue.jobs.values() if job.state == "done"}
    found: dict[str, None] = {}
    for job in runs.values():
        read = read_whole(store, f"runs/{job.identity}/dataset.json")
        notes = read.get("notes", ()) if isinstance(read, dict) else ()
        found |= dict.fromkeys(
            f"{queue.sweep.name}: dataset {job.spec.dataset.component_name}: {note}" for note in notes
        )
    return list(found)


def _train(queue: TrialQueue, address: str | None, screen: Console | None, until: float | None) -> None:
    if queue.over:
        _write_plan(queue)
        return
    quiet()  # before the next import, which imports Ray
    from ray_kd.cluster.execute import execute

    execute(queue, address, screen, lambda: _write_plan(queue), until)


def _resolve(spec: SweepSpec | str | Path, overrides: tuple[str, ...], storage: str | None) -> SweepSpec:
    if not isinstance(spec, SweepSpec):
        sweep = SweepSpec.load(spec, *overrides)
    else:
        sweep = SweepSpec.parse(apply_overrides(spec.to_dict(), overrides)) if overrides else spec
    where = Store(
        storage or str(sweep.base.get("storage") or "results")
    ).uri  # absolute: workers start elsewhere
    return sweep.model_copy(update={"base": {**sweep.base, "storage": where}})


@contextmanager
def _only_driver(store: Store, name: str, screen: Console | None) -> Iterator[None]:
    """Let one driver at a time run a sweep, since the ledger has one writer."""

    def say(text: str) -> None:
        if screen is not None:
            print_plain(screen, f"sweep {name}: {text}")

    lock = Lock(store, f"sweeps/{name}/lock", on_wait=say, what="another process that runs it")
    if not lock.acquire(timeout=lock.ttl + 10):
        raise UserError(
            f"sweep '{name}' is being run by another process (see {store.path(f'sweeps/{name}/lock')}). "
            "Wait for it, or give this sweep another 'name'."
        )
    store.may_write = lock.require
    try:
        yield
    finally:
        lock.release()


def _forget_damaged_teachers(queue: TrialQueue, store: Store) -> bool:
    """Train teachers again whose weight files are damaged, before a run loads them."""
    seen, lost = set(), set()
    for job in queue.jobs.values():
        for name in job.spec.needed_teachers() if job.state != "done" else ():
            run = job.spec.teacher_run(name).identity() if job.spec.teachers[name].weights is None else ""
            outcome = queue.jobs[run].outcome if run in queue.jobs else None
            if outcome is not None and outcome.status == "finished" and run not in seen:
                seen.add(run)
                if not is_whole(job.spec, name, store):
                    lost.add(run)
    for run in lost:
        with Lock(store, f"runs/{run}/lock", what=f"teacher {run}"):
            store.delete(f"runs/{run}/summary.json")  # a teacher without weights has not finished
    return bool(lost)


def _write_plan(queue: TrialQueue) -> None:
    queue.ledger.write_design(queue.looks.design)  # before the plan, by which a later call reads it
    queue.ledger.write_plan(queue.plan.to_json())
    queue.ledger.write_sweep(queue.sweep.to_yaml())


def _result(queue: TrialQueue, store: Store, called: float) -> SweepResult:
    trials = [job for job in queue.jobs.values() if job.trial is not None]
    result = SweepResult(queue.sweep.name, store.uri, started=queue.started)
    result.out_of_time, result.interrupted = queue.out_of_time, queue.halted and not queue.out_of_time
    result.looks = tuple(queue.looks.verdicts.lines())
    result.total = len(trials) + sum(entry.count for entry in queue.plan.later)
    for job in trials:
        if job.outcome is None:
            continue
        ending = job.outcome.status
        if ending is not Ending.UNFINISHED:
            name = ending.name.lower()
            setattr(result, name, getattr(result, name) + 1)
        if ending not in (Ending.FINISHED, Ending.STOPPED, Ending.NOT_NEEDED):
            about = {"ending": ending, "cell": job.cell, "seed": job.seed}
            result.failures.append({**about, "reason": job.outcome.reason, "error": job.outcome.error})
    began = [job.began for job in queue.jobs.values() if job.began is not None]
    if began:
        result.warmup_seconds = min(began) - called
        result.training_seconds = time.monotonic() - min(began)
    return result
