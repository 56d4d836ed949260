"""Train the jobs of a sweep with one ``Tuner.fit``."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ray import tune
from ray.exceptions import RpcError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.stopper import Stopper
from rich.console import Console

from ray_kd.cluster.capacity import bundles
from ray_kd.cluster.connect import connect
from ray_kd.cluster.job_actor import JobActor, JobConfig
from ray_kd.cluster.joined import probed
from ray_kd.cluster.places import Places
from ray_kd.cluster.precompute import precompute_cluster
from ray_kd.cluster.probe import own_modules
from ray_kd.cluster.progress import Counted, Progress
from ray_kd.cluster.scheduler import CellScheduler
from ray_kd.cluster.searcher import QueueSearcher
from ray_kd.config.spec import RunSpec
from ray_kd.targets.compute import same_targets
from ray_kd.trials.job import Job
from ray_kd.trials.trial_queue import TrialQueue

TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # ray-kd writes its own records
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # and handles Ctrl-C
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # and resumes from its own files
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # the trial queue hands out no more jobs than there are slots
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}

COUNT_EVERY = 10.0
"""Seconds between two counts of the cluster's slots."""


def execute(
    queue: TrialQueue,
    address: str | None,
    screen: Console | None,
    started: Callable[[], None],
    until: float | None = None,
) -> None:
    """Train the jobs of a trial queue.

    Args:
        started: called once it is certain that trials can run, before the first one.
        until: halt the queue at this time (of ``time.monotonic``); None: never.

    Raises:
        UserError: no machine is large enough for one of the runs, or a node is not ready.
    """
    jobs = queue.jobs.values()
    specs = [job.spec for job in jobs if job.state != "done"] or [job.spec for job in jobs]
    with ExitStack() as stack:
        if stack.enter_context(connect(address, own_modules(specs))):
            stack.enter_context(probed(*specs))
        Places(queue).open()
        started()
        _store_targets(queue, address, screen, until)
        if not queue.over:
            _fit(queue, screen, until)


def _store_targets(
    queue: TrialQueue, address: str | None, screen: Console | None, until: float | None
) -> None:
    """Where trials read stored targets: train their teachers, then compute all targets that are missing."""
    if not same_targets(_students(queue)):
        return
    queue.teachers_only = True
    if not queue.over:
        _fit(queue, screen, until)
    queue.teachers_only = False
    if not queue.halted:
        say = Counted(queue.plan.name, screen)
        precompute_cluster(_students(queue), address, say, say.tell)


def _students(queue: TrialQueue) -> list[RunSpec]:
    return [job.spec for job in queue.jobs.values() if job.trial is not None and job.state != "done"]


def _fit(queue: TrialQueue, screen: Console | None, until: float | None) -> None:
    sweep, places = queue.sweep, Places(queue)

    def configure(job: Job, warm: bool) -> dict[str, Any]:
        return JobConfig(
            warm=warm,
            identity=job.identity,
            spec=json.dumps(job.spec.to_dict()),
            metric=queue.plan.metric_of(job.spec) if job.trial is not None else "",
            ledger=f"{queue.ledger.folder}/ledger",
            every_epoch=scheduler.group(job) is not None,
            bundles=bundles(job.spec, places.of(job.spec)),
            left_out=places.left_out,
        ).to_config()

    searcher = QueueSearcher(queue, configure, places)
    scheduler = CellScheduler(queue, searcher.job_of, searcher.on_error)
    folder = tempfile.mkdtemp(prefix="ray-kd-")
    try:
        with (
            Progress(queue, screen) as progress,
            _tune_environment(TUNE_ENVIRONMENT),
            _stop_signals(queue),
        ):
            watch = Watch(searcher, places, progress, until)
            searcher.tick = watch.tick
            tuner = tune.Tuner(
                JobActor,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=scheduler,
                    num_samples=-1,
                    # For reuse Tune keeps one idle actor of a kind, with its CPU. Where other runs have
                    # several workers, which Ray Train places by itself, they could wait for it for ever.
                    reuse_actors=len({job.spec.resources for job in queue.jobs.values()}) == 1,
                    trial_name_creator=_short,
                    trial_dirname_creator=_short,
                ),
                run_config=tune.RunConfig(
                    name=sweep.name,
                    storage_path=folder,
                    stop=watch,
                    callbacks=[Starts(searcher)],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs write their own
                    verbose=0,
                ),
            )
            tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Watch(Stopper):
    """Tune calls it in every iteration of its loop: it shows progress, and ends the loop when asked to.

    It also counts the slots again every few seconds, since nodes come and go.
    """

    def __init__(
        self, searcher: QueueSearcher, places: Places, progress: Progress, until: float | None
    ) -> None:
        self.searcher, self.places, self.progress, self.until = searcher, places, progress, until
        self._counted = float("-inf")
        self._nodes: str | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.searcher.may_end(trial_id)

    def stop_all(self) -> bool:
        self.tick()
        return self.searcher.queue.halted

    def tick(self) -> None:
        """Look at the clock, at what the machine failed and at the nodes, and show it."""
        queue = self.searcher.queue
        queue.tick()
        self.progress.notice = queue.pause.notice or self._nodes
        self.progress.tick()
        if self.until is not None and time.monotonic() >= self.until:
            queue.halted = queue.out_of_time = True
        if time.monotonic() - self._counted > COUNT_EVERY:
            self._counted = time.monotonic()
            with suppress(RpcError):  # the head is starting again: what was counted holds
                self._nodes = self.places.count()

    def __reduce__(self) -> Any:
        return Watch, (None, None, None, None)  # Tune pickles it into snapshots that nobody reads


class Starts(tune.Callback):
    """Tells the trial queue that a job has started in its slot."""

    def __init__(self, searcher: QueueSearcher) -> None:
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        job = self.searcher.job_of(trial.trial_id)
        if job is not None:
            self.searcher.queue.running(job.identity)


def _short(trial: TuneTrial) -> str:
    return str(trial.trial_id)


@contextmanager
def _tune_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of the driver, from which Tune reads its settings, within the block."""
    before = {name: os.environ.get(name) for name in variables}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(variables)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _stop_signals(queue: TrialQueue) -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM end the sweep after the running steps; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def halt(number: int, frame: Any) -> None:
        if queue.halted:
            raise KeyboardInterrupt
        queue.halted = True

    for number in before:
        signal.signal(number, halt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
