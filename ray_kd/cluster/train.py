"""One run on several workers: the same Training under Ray Train, with DDP."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_kd.cluster.quiet import quiet

quiet()
import ray  # noqa: E402
import ray.train  # noqa: E402
import torch  # noqa: E402
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig  # noqa: E402
from ray.train.torch import TorchConfig, TorchTrainer, get_device  # noqa: E402

from ray_kd.cluster.capacity import require_slots  # noqa: E402
from ray_kd.config.errors import TrainingFailed, UserError  # noqa: E402
from ray_kd.config.spec import RunSpec  # noqa: E402
from ray_kd.storage import Store  # noqa: E402
from ray_kd.training.checkpoints import from_bytes, to_bytes  # noqa: E402
from ray_kd.training.records import find_summary  # noqa: E402
from ray_kd.training.run import Training  # noqa: E402
from ray_kd.training.setting import Setting, local_setting  # noqa: E402

RESTARTS = 3
"""How often a run is taken up again from its last checkpoint after a worker or a node died."""


class RayCheckpoints:
    """States through Ray Train: reported by all ranks, stored once, found again after a restart."""

    def save(self, state: dict[str, Any], record: dict[str, Any] | None) -> None:
        metrics = {"epoch": state["epoch"], "step": state["taken"]}
        if ray.train.get_context().get_world_rank() != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "state.pt").write_bytes(to_bytes(state))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    def load(self) -> dict[str, Any] | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            file = Path(folder, "state.pt")
            return from_bytes(file.read_bytes(), str(file))


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What every worker runs; the summary, or what went wrong in words of ours."""
    spec = RunSpec.parse(json.loads(config["spec"]))
    context = ray.train.get_context()
    setting = Setting(
        Store(spec.storage),
        torch.device(get_device()),
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        checkpoints=RayCheckpoints(),
    )
    training = Training(spec, setting)
    try:
        for _ in training.epochs():
            pass
        return {"summary": training.finish()}
    except TrainingFailed as error:
        # Every rank sees the same losses, so every rank ends here, and none waits for another.
        training.fail(error)
        return {"failed": str(error)}
    except UserError as error:
        return {"user": str(error)}


def run_distributed(
    spec: RunSpec, on_record: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Train one run on ``resources.workers`` workers of the connected cluster.

    It resumes by itself: after a worker died, and when called again after this process did.

    Args:
        spec: the run; its teachers must be trained.
        on_record: called with each epoch's record as it is written.

    Returns:
        The run's summary.

    Raises:
        UserError: no slot could ever hold it, or a worker met a user's mistake.
        TrainingFailed: a loss is no longer finite.
    """
    store, identity = Store(spec.storage), spec.identity()
    earlier = find_summary(store, identity)
    if earlier is not None:
        return earlier
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    require_slots(spec, nodes, f"run '{spec.name}'")
    absolute = spec.model_copy(update={"storage": store.uri})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"spec": json.dumps(absolute.to_dict())},
        torch_config=TorchConfig(backend="nccl" if spec.resources.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=spec.resources.workers,
            use_gpu=spec.resources.gpus > 0,
            resources_per_worker={
                "CPU": spec.resources.cpus,
                **({"GPU": spec.resources.gpus} if spec.resources.gpus else {}),
            },
        ),
        run_config=RunConfig(
            name="train",
            storage_path=f"{store.uri}/runs/{identity}/checkpoints",
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    with _watching(store, identity, on_record):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            summary = Training(absolute, local_setting(absolute)).fail(error)
            raise TrainingFailed(f"the workers failed {RESTARTS + 1} times: {summary['reason']}") from error
    outcome: dict[str, Any] = result.return_value or {}
    if "user" in outcome:
        raise UserError(outcome["user"])
    if "failed" in outcome:
        raise TrainingFailed(outcome["failed"])
    ended = outcome.get("summary") or find_summary(store, identity)
    if ended is None:
        raise TrainingFailed("the workers ended without a summary; Ray's logs may say why.")
    return dict(ended)


@contextlib.contextmanager
def _watching(store: Store, identity: str, on_record: Callable[[dict[str, Any]], None] | None) -> Any:
    """Pass on each epoch's record as rank 0 writes it: the records are the one channel there is."""
    if on_record is None or not store.is_local:
        yield
        return
    over = threading.Event()
    file = store.path(f"runs/{identity}/epochs.jsonl")

    def follow() -> None:
        seen = 0
        while True:
            last = over.wait(0.2)
            lines = Path(file).read_text().splitlines(keepends=True) if os.path.exists(file) else []
            for line in lines[seen:]:
                if not line.endswith("\n"):
                    break
                seen += 1
                on_record(json.loads(line))
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)
