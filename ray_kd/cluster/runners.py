"""How a job actor trains a run: in its own process, or on several workers by Ray Train."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, cast

import ray

from ray_kd.config.ending import Interrupted
from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.config.faults import EnvironmentFault, environment_fault
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Lock, Store
from ray_kd.training.records import Records, find_summary
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context

PATIENCE = 8.0
"""Seconds that workers have to save their state and end; Tune kills this actor after ten."""


class Runner(ABC):
    """Trains a run, epoch by epoch."""

    store: Store
    ended = False
    """All epochs are trained; ``finish`` gives the summary."""
    closed = False
    waits: str | None = None
    """A sentence that says what it waits for: another process that trains the run, or seems to."""

    def _note(self, text: str) -> None:
        self.waits = text

    def _may_begin(self, lock: Lock | None, until: float) -> bool:
        """Whether no other process trains the run; waits for that until ``until``."""
        free = lock is None or lock.held or lock.acquire(timeout=max(0.0, until - time.monotonic()))
        self.waits = None if free else self.waits
        return free

    @abstractmethod
    def next_record(self, until: float) -> dict[str, Any] | None:
        """The next epoch's record; None when all epochs are trained, or none ended before ``until``."""

    @abstractmethod
    def finish(self) -> dict[str, Any]:
        """The summary, once ``ended``."""

    @abstractmethod
    def fail(self, error: Exception) -> dict[str, Any]:
        """End the run as failed; returns the summary."""

    @abstractmethod
    def leave(self, reason: str | None) -> None:
        """Stop before the last epoch: with a reason for good, else after saving the state to resume from."""


class LocalRunner(Runner):
    """Trains a run of one worker in the actor's own process."""

    def __init__(self, training: Training) -> None:
        self.training, self.store = training, training.context.store
        self._epochs = cast("Generator[dict[str, Any]]", training.epochs())
        self._begun = False
        if training.lock is not None:
            training.lock.on_wait = self._note

    def next_record(self, until: float) -> dict[str, Any] | None:
        if not self._begun and not self._may_begin(self.training.lock, until):
            return None
        self._begun = True
        record = next(self._epochs, None)
        if record is None or record["epoch"] == self.training.spec.training.epochs:
            self.ended = True
            next(self._epochs, None)  # releases the run's lock
        return record

    def finish(self) -> dict[str, Any]:
        self.closed = True
        return self.training.finish()

    def fail(self, error: Exception) -> dict[str, Any]:
        self.closed = True
        self._epochs.close()
        return self.training.fail(error)

    def leave(self, reason: str | None) -> None:
        self.closed = True
        if not self._begun:
            return
        if reason is None:
            self.training.stop_requested.set()
            with contextlib.suppress(Interrupted):
                next(self._epochs, None)
            return
        self._epochs.close()  # releases the run's lock
        self.training.stop(reason)


class DistributedRunner(Runner):
    """Trains a run of several workers with Ray Train.

    Ray Train's ``fit`` cannot be cancelled by its caller, so it runs in a process of its own, which can be
    ended. The run's records are read as they are written.
    """

    def __init__(self, spec: RunSpec, group: str | None = None) -> None:
        self.spec, self.store = spec, Store(spec.storage)
        self.identity = spec.identity()
        self._records = Records(self.store, f"runs/{self.identity}")
        self._seen = 0
        self._waiting: list[dict[str, Any]] = []
        what = f"run '{spec.name}'"
        self._lock = Lock(self.store, f"runs/{self.identity}/lock", on_wait=self._note, what=what)
        self._group = group
        self._task: Any = None

    def next_record(self, until: float) -> dict[str, Any] | None:
        if self._task is None:
            if not self._may_begin(self._lock, until):
                return None
            self._lock.release()  # rank 0 takes the lock
            task = ray.remote(num_cpus=0, max_retries=0)(_distribute)
            self._task = task.remote(json.dumps(self.spec.to_dict()), self._group)
        while True:
            if self._waiting:
                self._seen += 1
                return self._waiting.pop(0)
            # Before reading: so it misses no record.
            over = bool(ray.wait([self._task], timeout=self.store.look_every)[0])
            self._waiting = self._records.epochs_after(self._seen)
            if self._waiting:
                continue
            if over:
                self.ended = True
                return None
            if time.monotonic() >= until:
                return None

    def finish(self) -> dict[str, Any]:
        outcome: dict[str, Any] = ray.get(self._task)
        summary = outcome.get("summary") or find_summary(self.store, self.identity)
        if summary is None and "fault" in outcome:
            raise EnvironmentFault(outcome["fault"])
        if summary is None and "user" in outcome:
            raise UserError(outcome["user"])
        if summary is None:
            raise TrainingFailed(outcome.get("error") or "the workers ended without a summary.")
        self.closed = True
        return dict(summary)

    def fail(self, error: Exception) -> dict[str, Any]:
        self.closed = True
        self._end_process()
        return self._training().fail(error)

    def leave(self, reason: str | None) -> None:
        from ray_kd.cluster.train import ask_to_stop

        self.closed = True
        if self._task is None:
            return
        with contextlib.suppress(Exception):  # workers that were told to stop write nothing after this call
            ask_to_stop(self.store, self.identity)
            ray.wait([self._task], timeout=PATIENCE)
        self._end_process()
        if reason is not None:
            self._training().stop(reason)

    def _end_process(self) -> None:
        with contextlib.suppress(Exception):
            ray.cancel(self._task, force=True)
            ray.wait([self._task], timeout=10)

    def _training(self) -> Training:
        """The run in the state of its last record, to write its summary."""
        training = Training(self.spec, local_context(self.spec))
        records = self._records.epochs()
        if records:
            training.last, training.epoch = records[-1], int(records[-1]["epoch"])
            training.seconds = sum(float(record["seconds"]) for record in records)
        return training


def _distribute(spec: str, group: str | None) -> dict[str, Any]:
    """Train a run; called in its own process. Errors come back as text, since they may not be picklable."""
    from ray_kd.cluster.train import run_distributed

    try:
        return {"summary": run_distributed(RunSpec.parse(json.loads(spec)), group=group)}
    except Interrupted:
        return {"error": "the workers were asked to stop."}
    except Exception as error:
        fault = environment_fault(error)
        if fault is not None:
            return {"fault": str(fault)}
        if isinstance(error, UserError):
            return {"user": str(error)}
        return {"error": str(error) if isinstance(error, TrainingFailed) else traceback.format_exc()}
