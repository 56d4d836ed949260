"""JobActor: a process that trains one job after another and keeps what they share in memory."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from ray.tune import PlacementGroupFactory, Trainable

from ray_kd.cluster.joined import Elsewhere, UnfitNode, require_fit
from ray_kd.cluster.runners import DistributedRunner, LocalRunner, Runner
from ray_kd.cluster.stream import stream
from ray_kd.config.ending import Ending, ending_of, reason_of
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.storage import shapes
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context

os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # Tune would move the process to another folder

REPORT_EVERY = 2.0
"""Seconds between reports to the driver: each costs a round trip during which nothing trains."""
WARM_STEP = 0.1
"""Seconds between the reports of a warm-up; it can end after each of them."""


@dataclass(frozen=True)
class JobConfig:
    """What a ``JobActor`` is told to train.

    Attributes:
        spec: the resolved spec of the run, JSON.
        metric: the validation metric that is reported; empty: no metric.
        ledger: folder of the sweep's ledger, which says whether a scheduler stopped the run.
        every_epoch: report after each epoch, as a scheduler needs it.
        bundles: resources to reserve, the first bundle for the actor itself.
        left_out: ids of nodes that it must not be placed on.
        warm: a warm-up: load what the run needs, and train nothing.
    """

    identity: str
    spec: str
    metric: str
    ledger: str
    every_epoch: bool
    bundles: tuple[dict[str, float], ...]
    left_out: tuple[str, ...] = ()
    warm: bool = False

    def to_config(self) -> dict[str, str]:
        """As Tune's config: one string, since Tune copies, flattens and prints nested values."""
        return {"job": json.dumps(asdict(self))}

    @classmethod
    def from_config(cls, config: dict[str, str]) -> JobConfig:
        """The inverse of ``to_config``."""
        return cls(**json.loads(config["job"]))


class JobActor(Trainable):
    """A Tune actor that is reused from job to job, so that a job starts in tens of milliseconds."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        job = JobConfig.from_config(config)
        return Elsewhere(list(job.bundles), job.left_out)

    def setup(self, config: dict[str, Any]) -> None:
        self._cache = ProcessCache()
        self._begin(config)
        self._unfit: UnfitNode | None = None
        try:
            require_fit()
        except UnfitNode as error:
            self._unfit = error  # an error of this method would reach the driver as text alone
        else:
            self._preload()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._leave()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._leave()

    def _begin(self, config: dict[str, Any]) -> None:
        self._job = JobConfig.from_config(config)
        self._runner: Runner | None = None
        self._epoch = 0

    def step(self) -> dict[str, Any]:
        """Train for about two seconds, or for one epoch; the last report contains the summary."""
        if self._unfit is not None:
            raise self._unfit
        if self._job.warm:
            time.sleep(WARM_STEP)
            return {"epoch": 0}
        until = time.monotonic() + REPORT_EVERY
        result: dict[str, Any] = {}
        try:
            if self._runner is None:
                self._runner = make_runner(self._job, self._cache)
            while True:
                record = self._runner.next_record(until)
                if record is None:
                    break
                self._epoch = record["epoch"]
                result = {"epoch": self._epoch, "value": self._value(record)}
                if self._job.every_epoch or time.monotonic() >= until:
                    break
            if self._runner.ended:
                return {"epoch": self._epoch, **result, **_last(self._runner.finish())}
        except Exception as error:
            return {"epoch": self._epoch, **result, **_last(self._fail(error))}
        return {"epoch": self._epoch, "waits": self._runner.waits, **result}

    def _preload(self) -> None:
        """Load what the first run needs before it begins, so that its measured time is training alone."""
        with contextlib.suppress(Exception):  # the run itself raises the error, with its message
            spec = RunSpec.parse(json.loads(self._job.spec))
            if spec.resources.workers == 1:
                self._cache.dataset(spec.dataset, local_context(spec).device)
                # A process's first optimizer takes two seconds: PyTorch imports many modules with it.
                torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    def _value(self, record: dict[str, Any]) -> float | None:
        if "val" not in record or not self._job.metric:
            return None
        if self._job.metric not in record["val"]:
            known = ", ".join(record["val"])
            raise UserError(
                f"metric.name: a run has no validation metric '{self._job.metric}'. Known: {known}."
            )
        return float(record["val"][self._job.metric])

    def _fail(self, error: Exception) -> dict[str, Any]:
        """The summary of a run that raised an error; written to the storage where that is possible."""
        runner, self._runner = self._runner, None
        try:
            if runner is None:
                spec = parse(self._job)
                runner = LocalRunner(Training(spec, local_context(spec), self._cache))
            return runner.fail(error)
        except Exception:  # such as a full disk or another version: the driver's ledger keeps the reason
            return {
                "identity": self._job.identity,
                "status": ending_of(error).value,
                "reason": reason_of(error),
                "epochs": self._epoch,
            }

    def _leave(self) -> None:
        """Give up a run that has not ended: a scheduler stopped it, or the sweep was interrupted."""
        runner, self._runner = self._runner, None
        if runner is None or runner.closed:
            return
        verdict: dict[str, Any] = {}
        with contextlib.suppress(OSError, UserError):  # the storage may be away
            found = runner.store.find_json(f"{self._job.ledger}/{self._job.identity}.json", shapes.Entry)
            verdict = found or verdict
        try:
            runner.leave(verdict.get("reason") if verdict.get("status") == Ending.STOPPED else None)
        except Exception as error:
            if ending_of(error) is not Ending.UNFINISHED:  # it resumes from its last saved state
                raise


def parse(job: JobConfig) -> RunSpec:
    """The run that a job trains."""
    spec = RunSpec.parse(json.loads(job.spec))
    if spec.identity() != job.identity:
        raise UserError(
            f"this node gives the run another identity ({spec.identity()}) than the driver "
            f"({job.identity}): versions of ray-kd or of a plug-in differ. "
            "'ray-kd doctor --address' lists the versions of every node."
        )
    return spec


def make_runner(job: JobConfig, cache: ProcessCache) -> Runner:
    """The runner of a job: in this process, or by Ray Train for several workers."""
    spec = parse(job)
    group = job.ledger.split("/")[1] if "/" in job.ledger else None
    if spec.resources.workers > 1:
        return DistributedRunner(spec, group)
    context = local_context(spec)
    context.stream = stream
    if spec.tracking.wandb != "off":
        from ray_kd.tracking.wandb import make_tracker

        context.track = make_tracker(spec, group)
    return LocalRunner(Training(spec, context, cache))


def _last(summary: dict[str, Any]) -> dict[str, Any]:
    return {"done": True, "summary": json.dumps(summary)}
