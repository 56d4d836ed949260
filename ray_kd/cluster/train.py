"""One run on several workers: the same Training under Ray Train, with DDP."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray_kd.cluster.quiet import quiet

quiet()
import ray  # noqa: E402
import ray.train  # noqa: E402
import torch  # noqa: E402
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig  # noqa: E402
from ray.train.torch import TorchConfig, TorchTrainer, get_device  # noqa: E402

from ray_kd.cluster.autoscaler import await_nodes, can_hold  # noqa: E402
from ray_kd.cluster.joined import left_out, not_on, probe_joined, require_fit  # noqa: E402
from ray_kd.cluster.stream import stream  # noqa: E402
from ray_kd.config.ending import Interrupted  # noqa: E402
from ray_kd.config.errors import TrainingFailed, UserError  # noqa: E402
from ray_kd.config.faults import EnvironmentFault, environment_fault  # noqa: E402
from ray_kd.config.spec import RunSpec  # noqa: E402
from ray_kd.storage import Lock, Store, tell_once  # noqa: E402
from ray_kd.storage.store import LOOK_EVERY  # noqa: E402
from ray_kd.training.checkpoints import SPREAD, STATE, StoreCheckpoints, from_bytes, to_bytes  # noqa: E402
from ray_kd.training.object_records import require_same  # noqa: E402
from ray_kd.training.records import BESIDE, Records, find_summary, read_summary  # noqa: E402
from ray_kd.training.run import Training  # noqa: E402
from ray_kd.training.run_context import RunContext, local_context  # noqa: E402

RESTARTS = 3
"""How often a run is resumed from its last checkpoint after a worker or a node died."""


class RayCheckpoints:
    """Keeps states with Ray Train: all ranks report them, one copy is stored and found after a restart.

    Args:
        former: where a run of one worker keeps its state; the newer state is loaded.
    """

    def __init__(self, former: StoreCheckpoints) -> None:
        self.former = former

    def save(self, state: dict[str, Any], record: dict[str, Any] | None) -> None:
        metrics = {"epoch": state["epoch"], "step": state["taken"]}
        if ray.train.get_context().get_world_rank() != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, STATE).write_bytes(to_bytes(state))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    def load(self) -> dict[str, Any] | None:
        reported = self._reported()
        former = self.former.load() if reported is None else self.former.alone()
        states = [state for state in (former, reported) if state is not None]
        return max(states, key=lambda state: int(state["taken"]), default=None)

    def _reported(self) -> dict[str, Any] | None:
        """The state that Ray Train hands back; None if it is damaged."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            file = Path(folder, STATE)
            try:
                return from_bytes(file.read_bytes(), str(file))
            except (FileNotFoundError, UserError) as error:
                tell_once(f"{error}: resuming from the newest undamaged state.")
                return None


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The function that every worker runs; returns the summary, or the error as text."""
    require_fit()
    spec = RunSpec.parse(json.loads(config["spec"]))
    context = ray.train.get_context()
    store = Store(spec.storage)
    context = RunContext(
        store,
        torch.device(get_device()),
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        checkpoints=RayCheckpoints(StoreCheckpoints(store, config["directory"])),
        stream=stream,
    )
    if context.leads and spec.tracking.wandb != "off":
        from ray_kd.tracking.wandb import make_tracker

        context.track = make_tracker(spec, config["group"])
    training = Training(spec, context, directory=config["directory"])
    try:
        with _heeding(context, f"runs/{training.identity}"):
            for _ in training.epochs():
                pass
        return {"summary": training.finish()}
    except Interrupted as error:
        return {"interrupted": str(error)}
    except TrainingFailed as error:
        # Every rank sees the same losses, so every rank ends here and none waits for another.
        training.fail(error)
        return {"failed": str(error)}
    except UserError as error:
        fault = environment_fault(error)
        return {"user": str(error)} if fault is None else {"fault": str(fault)}


def ask_to_stop(store: Store, identity: str) -> None:
    """Ask a run's workers to save their state and end, by a file in the storage, which all of them see."""
    store.write(f"runs/{identity}/stop", b"")


@contextlib.contextmanager
def _heeding(context: RunContext, directory: str) -> Iterator[None]:
    """Tell this rank when the run was asked to stop; rank 0 tells the others."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(context.store.look_every):
            with contextlib.suppress(OSError):  # there is none, or the storage does not answer for the moment
                context.store.read(f"{directory}/stop")
                context.stop.set()
                return

    if context.leads:
        threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def run_distributed(
    spec: RunSpec,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    stop: threading.Event | None = None,
    group: str | None = None,
    directory: str | None = None,
) -> dict[str, Any]:
    """Train one run on ``resources.workers`` workers of the connected cluster.

    It resumes from the last checkpoint after a worker died, and when called again after this process died.

    Args:
        spec: the run; its teachers must be trained.
        on_record: called with each epoch's record as it is written.
        stop: set it, and the workers save their state and end.
        directory: where the run is written, from ``begin_anew``; default: ``runs/<identity>``.

    Raises:
        UserError: no node is large enough, or a worker raised it.
        EnvironmentFault: a fault of the machine; the same call resumes.
        TrainingFailed: a loss is no longer finite.
        Interrupted: ``stop`` was set; the same call resumes.
    """
    store, identity = Store(spec.storage), spec.identity()
    directory = directory or f"runs/{identity}"
    earlier = read_summary(store, directory)
    if earlier is not None:
        require_same(store, directory, spec)
        return earlier
    stop = stop or threading.Event()
    if not can_hold(spec, f"run '{spec.name}'", left_out()):
        await_nodes(spec, stop)  # Ray Train itself would give up after a few minutes
    absolute = spec.model_copy(update={"storage": store.uri})
    with Lock(store, f"runs/{identity}/lock", what=f"run '{spec.name}'"):
        pass  # rank 0 takes the lock later; waiting here can be shown, waiting there cannot
    store.delete(f"runs/{identity}/stop")
    try:
        outcome = _outcome(absolute, directory, group, on_record, stop)
    finally:
        store.delete(f"runs/{identity}/stop")
    for name, kind in (("interrupted", Interrupted), ("fault", EnvironmentFault), ("user", UserError)):
        if name in outcome:
            raise kind(outcome[name])
    StoreCheckpoints(store, directory).discard()
    if "failed" in outcome:
        raise TrainingFailed(outcome["failed"])
    ended = outcome.get("summary") or find_summary(store, identity)
    if ended is not None and directory.endswith(f"/{BESIDE}"):
        store.delete_tree(directory)  # it has replaced the earlier run
    if ended is None:
        raise TrainingFailed("the workers ended without a summary; Ray's logs may say why.")
    return dict(ended)


def _outcome(
    spec: RunSpec,
    directory: str,
    group: str | None,
    on_record: Callable[[dict[str, Any]], None] | None,
    stop: threading.Event,
) -> dict[str, Any]:
    """Fit; again if workers failed on a node that had joined and is not ready, and then not on that node."""
    while True:
        unfit = probe_joined()
        try:
            return _fit(_trainer(spec, directory, group, not_on(unfit)), spec, directory, on_record, stop)
        except ray.train.TrainingFailedError as error:
            if not probe_joined().keys() - unfit.keys():
                return _lost(spec, directory, error)


def _lost(spec: RunSpec, directory: str, error: Exception) -> dict[str, Any]:
    """The summary of a run whose workers failed too often for Ray Train, or the error to raise."""
    fault = environment_fault(error)
    if fault is not None:
        return {"fault": str(fault)}
    summary = Training(spec, local_context(spec), directory=directory).fail(error)
    if summary["status"] == "finished":  # the run had ended before its workers died
        return {"summary": summary}
    return {"failed": f"the workers failed {RESTARTS + 1} times: {summary['reason']}"}


def _trainer(spec: RunSpec, directory: str, group: str | None, nodes: dict[str, str]) -> TorchTrainer:
    asked = spec.resources
    told = {"spec": json.dumps(spec.to_dict()), "group": group, "directory": directory}
    place, filesystem = Store(spec.storage).for_ray(f"{directory}/checkpoints")
    return TorchTrainer(
        train_worker,
        train_loop_config=told,
        torch_config=TorchConfig(backend="nccl" if asked.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=asked.workers,
            use_gpu=asked.gpus > 0,
            label_selector=nodes or None,
            resources_per_worker={"CPU": asked.cpus, **({"GPU": asked.gpus} if asked.gpus else {})},
        ),
        run_config=RunConfig(
            name=SPREAD,
            storage_path=place,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )


def _fit(
    trainer: TorchTrainer,
    spec: RunSpec,
    directory: str,
    on_record: Callable[[dict[str, Any]], None] | None,
    stop: threading.Event,
) -> dict[str, Any]:
    """Call ``fit`` in another thread, since in the main thread it would handle Ctrl-C itself.

    Meanwhile this thread passes each epoch's record to ``on_record`` as rank 0 writes it.
    """
    store, identity = Store(spec.storage), spec.identity()
    records, box = Records(store, directory), dict[str, Any]()

    def fit() -> None:
        try:
            box["outcome"] = trainer.fit().return_value or {}
        except BaseException as error:
            box["error"] = error

    seen = max((record["epoch"] for record in records.epochs()), default=0)
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    asked, next_look = False, 0.0
    over = False
    while not over:
        thread.join(LOOK_EVERY)
        over = not thread.is_alive()  # before reading: so it misses no record
        if stop.is_set() and not asked:
            ask_to_stop(store, identity)
            asked = True
        if on_record is None or (not over and time.monotonic() < next_look):
            continue
        next_look = time.monotonic() + store.look_every
        for record in records.epochs_after(seen):
            seen = record["epoch"]
            on_record(record)
    if "error" in box:
        raise box["error"]
    return dict(box["outcome"])
