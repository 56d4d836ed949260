"""The context of a run: storage, device, ranks. It changes no number beyond float order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ray_kd.config.spec import RunSpec
from ray_kd.data.loading import Request
from ray_kd.data.streaming import LoadedRows
from ray_kd.storage import Store

if TYPE_CHECKING:
    from ray_kd.targets.batch_reader import Reading


class CheckpointPort(Protocol):
    """Keeps the state to resume from; called on every rank, and rank 0's state is kept."""

    def save(self, state: dict[str, Any], record: dict[str, Any] | None) -> None:
        """Keep a state, with the epoch's record at the end of an epoch."""
        ...

    def load(self) -> dict[str, Any] | None:
        """The newest state, or None."""
        ...


class Tracker(Protocol):
    """Reports a run's progress elsewhere, beside its records; it must never break or slow the run."""

    def epoch(self, record: dict[str, Any], paths: list[dict[str, Any]]) -> None:
        """Called when an epoch ended."""
        ...

    def finish(self, summary: dict[str, Any]) -> None:
        """Called when the run ended."""
        ...


class StreamPort(Protocol):
    """Reads a run's training batches ahead, with targets and files together."""

    def __call__(
        self, reading: Reading, requests: Iterator[Request], readers: int
    ) -> Iterator[tuple[Request, LoadedRows]]:
        """A generator of the loaded rows of requests, in their order, read by ``readers`` processes."""
        ...


@dataclass
class RunContext:
    """The context of a run.

    Attributes:
        rank, world: number of this process, and how many train together.
        checkpoints: keeps states; None: ``checkpoints/last.pt`` of the run's directory.
        stream: reads the batches of a run with streamed targets; None: this process reads them.
        stop: if set, the run saves its state at the next step and ends.
    """

    store: Store
    device: torch.device
    rank: int = 0
    world: int = 1
    checkpoints: CheckpointPort | None = None
    track: Tracker | None = None
    stream: StreamPort | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def leads(self) -> bool:
        """Whether this rank writes the records."""
        return self.rank == 0


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    there = torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if there else torch.device("cpu")


def local_context(spec: RunSpec) -> RunContext:
    """A context of one process."""
    return RunContext(Store(spec.storage), default_device())


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of forward passes; ``auto``: half precision on a GPU, float32 on a CPU."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
