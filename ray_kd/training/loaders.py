"""Choose what reads a run's batches: its own process, loader processes, or a stream of Ray Data."""

from __future__ import annotations

from functools import partial

from ray_kd.config.spec import RunSpec
from ray_kd.data.batches import Batches
from ray_kd.data.loading import Loader, default_processes
from ray_kd.data.streaming import StreamLoader
from ray_kd.training.build import Parts
from ray_kd.training.run_context import RunContext


def make_loader(spec: RunSpec, parts: Parts, context: RunContext) -> Loader:
    """The loader of a run's splits; with ``resources.loaders: 0`` this process reads everything."""
    resources, device, data = spec.resources, context.device, parts.dataset
    processes = default_processes(resources.loaders, resources.cpus, device)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    reading, stream = parts.reading, context.stream
    if reading is None or stream is None or not reading.columns or resources.loaders == 0:
        return Loader(splits, parts.views, device, processes)
    ahead = partial(stream, reading, readers=max(1, processes))
    return StreamLoader(splits, parts.views, device, processes, ahead, reading.row_bytes)


def make_batches(spec: RunSpec, parts: Parts, context: RunContext, loader: Loader) -> Batches:
    """The training batches of a run."""
    return Batches(
        parts.dataset.train,
        parts.views,
        spec.training.batch_size,
        spec.seed,
        context.device,
        context.rank,
        context.world,
        loader,
        spec.training.order,
    )
