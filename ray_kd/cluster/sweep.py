"""run_sweep: train all trials of a sweep that have not ended, with Ray Tune."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ray_kd.cluster.attempts import Attempts
from ray_kd.config.ending import Ending, exit_code
from ray_kd.config.errors import UserError
from ray_kd.config.faults import EnvironmentFault
from ray_kd.config.names import one_line
from ray_kd.config.plan import Plan
from ray_kd.config.screen import show
from ray_kd.config.sweep import SweepSpec
from ray_kd.config.words import clock
from ray_kd.config.yamlio import apply_overrides
from ray_kd.storage import Lock, Store, shapes
from ray_kd.storage.leftovers import clean, clean_probes
from ray_kd.tracking.wandb import require_wandb
from ray_kd.training.object_records import require_same_runs
from ray_kd.training.preflight import check_plan
from ray_kd.trials.ledger import node_line
from ray_kd.trials.pause import STORAGE_TIMEOUT
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
        storage_lost: why the sweep gave up its storage, which did not answer; None: it did not.
        looks: what looks have decided, a line for each family of strategies that has several looks.
        left_out: nodes that joined while it ran and were not ready, each with the reason.
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
    storage_lost: str | None = None
    looks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
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
                lines.append(f"    traceback: {Store(self.storage).path(error)}")
        if len(reasons) > 5:
            lines.append(f"  ... and {len(reasons) - 5} more; 'ray-kd status' lists them.")
        lines += [f"  left out: {line}" for line in self.left_out]
        lines += [f"  {line}" for line in self.looks]
        if not self.complete:
            ended = self.total - self.unfinished - self.not_needed
            word = "Stopped. " if self.interrupted else "Time is over. " if self.out_of_time else ""
            word += f"Given up: {self.storage_lost}\n" if self.storage_lost else ""
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
    storage_timeout: float = STORAGE_TIMEOUT,
    console: Console | None = None,
) -> SweepResult:
    """Train all trials of a sweep that have not ended. A second call starts no trial that has ended.

    While the storage does not answer (a full disk, a lost mount) the sweep waits, and then goes on.

    Args:
        spec: a sweep file, or a SweepSpec.
        *overrides: ``key=value``; ``base.optimizer.lr=0.05`` reaches the runs.
        address: a running Ray cluster to join; default: start Ray here, or use what this process has.
        storage: where records are written; default: the base run's ``storage``.
        progress: show a live panel on a terminal, else a line every ten seconds.
        retry_failed: train failed trials again.
        until_time: seconds after which it stops as after Ctrl-C: trials that run save their state, and the
            same call goes on; None: as long as it takes.
        storage_timeout: seconds to wait for a storage that does not answer; then the sweep ends, and the
            same call goes on. 0: end each trial that meets a fault of the machine as unfinished, at once.
        console: where to show the progress; default: standard error.

    Raises:
        UserError: the sweep cannot be planned, another process runs it, or no machine is large enough.
        EnvironmentFault: the storage could not be read or written for ``storage_timeout`` seconds, before or
            after the trials; the same call resumes.

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
    screen = (console or Console(stderr=True)) if progress else None
    until = None if until_time is None else called + until_time
    attempts = Attempts(sweep, store, retry_failed, storage_timeout, screen, until)
    attempts.plan = attempts.persist(lambda: _checked_plan(sweep, store))
    with ExitStack() as held:
        attempts.persist(lambda: held.enter_context(_only_driver(store, sweep.name, attempts.say)))
        queue = attempts.persist(lambda: attempts.train(address))
        result = _result(queue, store, called, attempts.started)
        if screen is not None:
            show("\n".join([result.message(), *_data_notes(queue, store)]), screen)
        if result.complete:
            attempts.persist(queue.ledger.flush)
        else:
            with suppress(EnvironmentFault):
                queue.ledger.flush()
        return result


def _checked_plan(sweep: SweepSpec, store: Store) -> Plan:
    plan = sweep.plan()
    check_plan(plan)
    for trial in plan.trials:
        require_wandb(trial.spec)
    require_same_runs(store, [*plan.teachers, *(trial.spec for trial in plan.trials)])
    return plan


def _data_notes(queue: TrialQueue, store: Store) -> list[str]:
    """What users should know of the data: workers, which read it, say nothing on this screen."""
    if queue.pause.lost is not None:
        return []
    runs = {str(job.spec.dataset.full()): job for job in queue.jobs.values() if job.state == "done"}
    found: dict[str, None] = {}
    for job in runs.values():
        read = store.find_json(f"runs/{job.identity}/dataset.json", shapes.RunData) or {}
        whose = f"{queue.sweep.name}: dataset {job.spec.dataset.component_name}"
        found |= dict.fromkeys(f"{whose}: {note}" for note in read.get("notes", ()))
    return list(found)


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
def _only_driver(store: Store, name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Let one driver at a time run a sweep, since the ledger has one writer."""
    lock = Lock(store, f"sweeps/{name}/lock", on_wait=say, what="another process that runs it")
    if not lock.acquire(timeout=lock.ttl + 10):
        raise UserError(
            f"sweep '{name}' is being run by another process (see {store.path(f'sweeps/{name}/lock')}). "
            "Wait for it, or give this sweep another 'name'."
        )
    store.may_write = lock.require
    try:
        clean(store, (f"sweeps/{name}", f"sweeps/{name}/ledger"))
        clean_probes(store)
        yield
    finally:
        lock.release()


def _result(queue: TrialQueue, store: Store, called: float, started: int) -> SweepResult:
    trials = [job for job in queue.jobs.values() if job.trial is not None]
    result = SweepResult(queue.sweep.name, store.uri, started=started)
    result.out_of_time, result.storage_lost = queue.out_of_time, queue.pause.lost
    result.interrupted = queue.halted and not queue.out_of_time and queue.pause.lost is None
    result.looks = tuple(queue.looks.verdicts.lines())
    result.left_out = tuple(map(node_line, queue.ledger.left_out.values()))
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
