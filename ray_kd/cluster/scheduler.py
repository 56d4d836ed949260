"""Early stopping with Tune's schedulers that keeps the comparison fair.

In a search, a candidate is compared with the other candidates of its own cell, so that a weak cell gets
its whole budget. Without a search, a trial is compared with the other cells at the same seed, and the
baseline is never stopped. Controls, winners and teachers always train to their end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from ray_kd.config.cells import strategy_name
from ray_kd.config.sweep import Scheduler
from ray_kd.training.records import Records
from ray_kd.trials.job import Job
from ray_kd.trials.trial_queue import TrialQueue


class CellScheduler(FIFOScheduler):
    """Uses one of Tune's schedulers for each group of trials that may be compared with each other.

    Args:
        job_of: the job of a Tune trial's id; None for a warm-up.
        on_error: called with the id of a Tune trial whose process failed, and the reason.
    """

    def __init__(
        self,
        queue: TrialQueue,
        job_of: Callable[[str], Job | None],
        on_error: Callable[[str, str], None],
    ) -> None:
        super().__init__()
        self.queue, self.options = queue, queue.sweep.scheduler
        self.job_of, self.report_error = job_of, on_error
        self._groups: dict[str, Any] = {}
        self._added: set[str] = set()

    def __reduce__(self) -> Any:
        return FIFOScheduler, ()  # Tune pickles it into a snapshot that nobody reads

    def group(self, job: Job | None) -> str | None:
        """The group of trials that a job is compared with; None: it is never stopped."""
        if job is None or self.options is None or job.trial is None or job.teaches:
            return None
        if self.queue.sweep.search:
            return job.cell if job.phase == "search" else None
        names = (job.cell, strategy_name(job.cell, job.trial.axes))
        if job.phase != "compare" or self.queue.sweep.baseline in names:
            return None
        return f"seed {job.trial.seed}"

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        job = self.job_of(trial.trial_id)
        name = self.group(job)
        if job is None or name is None or result.get("value") is None:
            return str(TrialScheduler.CONTINUE)
        inner = self._inner(name, job)
        if trial.trial_id not in self._added:
            self._added.add(trial.trial_id)
            inner.on_trial_add(tune_controller, trial)
        return str(inner.on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        if trial.trial_id in self._added and result.get("value") is not None:
            name = self.group(self.job_of(trial.trial_id))
            self._groups[str(name)].on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        self.report_error(trial.trial_id, _reason(trial))

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """None, so that Tune starts pending trials in order without iterating over all that have ended."""
        return None

    def _inner(self, name: str, job: Job) -> Any:
        if name not in self._groups:
            assert self.options is not None
            self._groups[name] = _make(self.options, self.queue.plan.mode, job.spec.training.epochs)
            self._recall(name)
        return self._groups[name]

    def _recall(self, name: str) -> None:
        """Add the trials that ended in an earlier invocation of the sweep to the comparison."""
        store, inner = self.queue.ledger.store, self._groups[name]
        for job in self.queue.jobs.values():
            if job.state != "done" or job.began is not None or self.group(job) != name:
                continue
            former = _Former(job.identity)
            records = [
                record for record in Records(store, f"runs/{job.identity}").epochs() if "val" in record
            ]
            metric = self.queue.plan.metric_of(job.spec)
            results = [{"epoch": record["epoch"], "value": record["val"].get(metric)} for record in records]
            if not results or any(result["value"] is None for result in results):
                continue
            inner.on_trial_add(None, former)
            for result in results:
                inner.on_trial_result(None, former, result)
            inner.on_trial_complete(None, former, results[-1])


class _Former:
    """Stands for a Tune trial of an earlier invocation of the sweep."""

    def __init__(self, identity: str) -> None:
        self.trial_id = identity


def _make(options: Scheduler, mode: str, epochs: int) -> Any:
    common: dict[str, Any] = {"time_attr": "epoch", "metric": "value", "mode": mode}
    if options.name == "asha":
        return ASHAScheduler(
            **common,
            grace_period=options.grace_epochs,
            max_t=epochs - 1,  # no rung at the last epoch: a trial that reaches it has finished
            reduction_factor=options.reduction,
            stop_last_trials=False,
        )
    return MedianStoppingRule(
        **common,
        grace_period=options.grace_epochs,
        min_samples_required=options.min_samples,
        min_time_slice=float("inf"),  # never pause a trial: it would lose its actor
    )


def _reason(trial: TuneTrial) -> str:
    """Why a trial's process failed, as Ray reports it."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return "its process ended without an error message"
