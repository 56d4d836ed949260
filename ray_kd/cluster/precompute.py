"""Compute stored targets with a pool of teachers, to which Ray Data hands out shards.

A row of the Ray dataset is a missing shard. Each actor of the pool holds the dataset and the teacher; it
reads the shard's samples under its view, runs the teacher on them, and writes the whole shard. If an actor
or a node dies, other actors compute the shards that it was working on.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from ray_kd.cluster.connect import connect
from ray_kd.cluster.probe import own_modules
from ray_kd.cluster.quiet import native_quiet
from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.config.faults import EnvironmentFault, environment_fault
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Lock, Store
from ray_kd.storage.leftovers import clean
from ray_kd.targets.compute import OnShard, compute_shard, prepare, same_targets
from ray_kd.targets.layout import Group, Shard
from ray_kd.training.precompute import Work, gather_work
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext, local_context

RETRIES = 3
"""How often a shard is tried again after its actor died."""


class TeacherActor:
    """One member of the pool.

    Args:
        runs: the runs whose targets it computes, resolved.
    """

    def __init__(self, runs: list[dict[str, Any]]) -> None:
        self._runs = runs
        self._works: dict[tuple[str, str], Work] = {}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the shards of a batch; returns for each a user's error, a fault of the machine, or "".

        Errors travel as text, since an exception would lose its type: Ray Data wraps it in one of its own,
        and Python does not pickle ``__cause__``.
        """
        met = [self._compute(json.loads(str(text))) for text in batch["shard"]]
        return {"mistake": np.array([text for text, _ in met]), "fault": np.array([own for _, own in met])}

    def _compute(self, task: dict[str, Any]) -> tuple[str, str]:
        try:
            work = self._known()[task["store"], task["split"]]
            group, shard = Group.from_json(task["group"]), Shard(**task["shard"])
            compute_shard(work.source, group, shard, work.dataset, work.views, work.task, work.load())
        except (UserError, OSError) as error:
            fault = environment_fault(error)
            if fault is not None:
                return "", str(fault)
            if not isinstance(error, UserError):
                raise
            return str(error), ""
        return "", ""

    def _known(self) -> dict[tuple[str, str], Work]:
        """The dataset, teachers and paths of the runs, loaded once."""
        if not self._works:
            import torch

            runs = [RunSpec.parse(run) for run in self._runs]
            torch.set_num_threads(max(1, int(runs[0].resources.cpus)))
            found = gather_work(runs, local_context(runs[0]), ProcessCache())
            self._works = {(work.source.store.identity, work.source.split): work for work in found}
        return self._works


def precompute_cluster(
    specs: Iterable[RunSpec],
    address: str | None = None,
    on_shard: OnShard | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> int:
    """Compute the missing stored targets of runs, on a cluster or on this machine; returns how many shards.

    Raises:
        UserError: a teacher is not trained, or no cluster responds at the address.
        EnvironmentFault: such as a full disk; the same call resumes.
        TrainingFailed: teachers died again and again.
    """
    specs = same_targets(specs)
    if not specs:
        return 0
    context = RunContext(Store(specs[0].storage), local_context(specs[0]).device)
    works = [work for work in gather_work(specs, context, ProcessCache()) if work.source.missing()]
    if not works:
        return 0
    locks = {work.source.store.folder: work.source.store.root for work in works}
    held = [
        Lock(root, f"{folder}/lock", on_wait=on_wait, what="stored targets")
        for folder, root in sorted(locks.items())
    ]
    try:
        for lock in held:
            lock.acquire()
        for folder, root in locks.items():
            clean(root, (folder, *(f"{folder}/{name}" for name in root.names(folder))))
        tasks = [task for work in works for task in _tasks(work)]
        if tasks:
            with connect(address, own_modules(specs)):
                _stream([json.dumps(task) for task in tasks], specs, on_shard)
        return len(tasks)
    finally:
        for lock in held:
            lock.release()


def _tasks(work: Work) -> list[dict[str, Any]]:
    missing = [(group, shard) for group, shards in work.source.missing() for shard in shards]
    if missing:
        prepare(work.source, work.load().digest, missing)
    about = {"store": work.source.store.identity, "split": work.source.split}
    return [{**about, "group": group.to_json(), "shard": asdict(shard)} for group, shard in missing]


def _stream(tasks: list[str], specs: list[RunSpec], on_shard: OnShard | None) -> None:
    """Compute the tasks with a pool of as many actors as the machines have room for."""
    import ray.data  # imported here, since the import takes a second

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # Ray Data's other logger writes to Ray's session logs
            handler.setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    total, asked = ray.cluster_resources(), specs[0].resources
    places = math.floor(total.get("CPU", 1) / asked.cpus)
    gpus = asked.gpus or (1.0 if total.get("GPU", 0) >= 1 else 0.0)
    if gpus:
        places = min(places, math.floor(total["GPU"] / gpus))
    pool = max(1, min(places, len(tasks)))
    runs = [{**spec.to_dict(), "storage": Store(spec.storage).uri} for spec in specs]
    rows: Any = ray.data.from_items([{"shard": task} for task in tasks], override_num_blocks=len(tasks))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")  # the options have no other name yet
        rows = rows.map_batches(
            TeacherActor,
            fn_constructor_kwargs={"runs": runs},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool, max_tasks_in_flight_per_actor=2),
            num_cpus=asked.cpus,
            num_gpus=gpus or None,
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        )
    try:
        with native_quiet():
            for done, row in enumerate(rows.iter_rows(), start=1):
                if row["fault"]:
                    raise EnvironmentFault(str(row["fault"]))
                if row["mistake"]:
                    raise UserError(str(row["mistake"]))
                if on_shard is not None:
                    on_shard(done, len(tasks))
    except ray.exceptions.RayError as error:
        fault = environment_fault(error)
        if fault is not None:
            raise fault from error
        raise TrainingFailed(
            f"the pool of teachers failed ({str(error).splitlines()[0]}); what is stored is kept, and the "
            "same command resumes. Ray's logs may say why; often a teacher has too little memory."
        ) from error
