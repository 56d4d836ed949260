"""Stream stored targets and their samples to a rank with Ray Data.

A row of the Ray dataset is a request: sample indices and a view. Actors on the rank's node read the stored
targets from the Parquet shards and the samples from their files, and return both in the order of the
requests, which is the order of training: a run's numbers are the same, streamed or not. If an actor dies,
Ray gives the requests that it was working on to another one.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import Tensor

from ray_kd.cluster.quiet import quiet
from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.data.loading import Failure, Request
from ray_kd.data.streaming import LoadedRows
from ray_kd.targets.batch_reader import Reader, Reading

quiet()
import ray  # noqa: E402 (its switches come first)

RETRIES = 3
"""How often a request is tried again after its reader died; readers are restarted as often as needed."""
AHEAD_BYTES = 1 << 28
"""About how many bytes of loaded rows wait in Ray's object store."""
REQUESTS = 10_000
"""Requests that one pipeline reads; then its actors are started again, which takes seconds."""


def stream(
    reading: Reading, requests: Iterator[Request], readers: int = 1
) -> Iterator[tuple[Request, LoadedRows]]:
    """The loaded rows of requests, in their order; this process must be connected to Ray.

    Args:
        requests: of the run, in the order of training; up to ``REQUESTS`` are taken ahead.

    Raises:
        TrainingFailed: a reader died again and again.
    """
    while asked := list(islice(requests, REQUESTS)):
        loaded = _loaded(reading, asked, readers)
        try:
            for request in asked:
                yield request, next(loaded)
        finally:
            loaded.close()


class ReaderActor:
    """One reader of the pipeline."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._reader: Reader | None = None
        torch.set_num_threads(1)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The loaded rows of a table of requests; a user's error travels as text."""
        loaded, failures = [], []
        for text in batch["request"].to_pylist():
            data, failure = b"", ""
            try:
                self._reader = self._reader or Reader(self._reading)
                rows = self._reader(unpacked(text))
                data = save({name: value.as_subclass(Tensor).contiguous() for name, value in rows.items()})
            except UserError as error:
                failure = str(error)
            loaded.append(data)
            failures.append(failure)
        return pa.table({"rows": pa.array(loaded, pa.large_binary()), "failure": pa.array(failures)})


def packed(request: Request) -> str:
    """A request as text."""
    return json.dumps([request.split, request.index.tolist(), request.view, request.shown])


def unpacked(text: str) -> Request:
    """The inverse of ``packed``."""
    split, index, view, shown = json.loads(text)
    return Request(split, torch.tensor(index, dtype=torch.int64), view, shown)


def _loaded(reading: Reading, requests: list[Request], readers: int) -> Generator[LoadedRows, None, None]:
    batches = iter(_pipeline(reading, requests, min(readers, len(requests))))
    try:
        for table in batches:
            for data, failure in zip(table["rows"], table["failure"].to_pylist(), strict=True):
                yield Failure(failure) if failure else load(bytes(data.as_buffer()))
    except ray.exceptions.RayError as error:
        raise TrainingFailed(
            f"the readers of stored targets failed ({str(error).splitlines()[0]}); Ray's logs may say why. "
            "A common reason is too little memory: lower targets.held or resources.loaders."
        ) from error
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def _pipeline(reading: Reading, requests: list[Request], readers: int) -> Any:
    import ray.data  # imported here, since the import takes a second
    from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=AHEAD_BYTES)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    with DataContext.current(context), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")  # the option has no other name yet
        rows: Any = ray.data.from_items(
            [{"request": packed(request)} for request in requests], override_num_blocks=len(requests)
        )
        rows = rows.map_batches(
            ReaderActor,
            fn_constructor_args=(reading,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=readers),
            num_cpus=0,  # readers use the CPUs that their rank reserved, as loader processes do
            max_task_retries=RETRIES,
            scheduling_strategy=here,
        )
        return rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
