"""Reading batches ahead, in processes of their own, so that an accelerator has no reason to wait.

Batches are pure functions of what is asked for, so any number of processes gives the same ones; one that
was killed is replaced, and what it was at is read again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pickle import PicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.config.screen import logger
from ray_kd.data.base import Split, TensorSplit, is_raw
from ray_kd.data.files import stack
from ray_kd.data.views import Views

AHEAD = 2
"""Batches that each process reads ahead."""

REPLACED = 3
"""How often a loader replaces its processes after one of them died."""

CARRIED = "stored/"
"""Prefix of the columns that hold the encoded targets of a batch, which travel with its samples."""

NOT_PICKLABLE = (AttributeError, TypeError, ImportError, PicklingError)
"""What Python raises for objects that cannot be pickled for another process."""

_PRELOADED = ["torch", "torchvision.transforms.v2", "ray_kd.data.files"]


@dataclass(frozen=True)
class Request:
    """A batch to read.

    Attributes:
        index: its samples (B,).
        view: which view of them, where the views act on raw samples; None: as evaluation sees them.
        shown: which view training shows of them; None: it is no training batch.
    """

    split: str
    index: Tensor
    view: int | None = None
    shown: int | None = None


@dataclass(frozen=True)
class Failure:
    """What a process returns in place of a batch that cannot be read: the message for the user."""

    message: str


class Rows(Dataset):
    """What reads: the splits and the views, here or in a process."""

    def __init__(self, splits: Mapping[str, Split], views: Views) -> None:
        self.splits, self.views = dict(splits), views

    def __getitem__(self, asked: tuple[str, np.ndarray, int | None]) -> dict[str, Tensor] | Failure:
        """The rows of a request, given by its parts: a tensor in place of the array takes shared memory."""
        split, index, view = asked
        try:
            return self.read(Request(split, torch.from_numpy(index), view))
        except UserError as error:  # its traceback would hide it
            return Failure(str(error))

    def read(self, request: Request) -> dict[str, Tensor]:
        """The rows of a request: of files finished but not ready, else as ``gather`` gives them."""
        split = self.splits[request.split]
        if not is_raw(split):
            return split.gather(request.index)
        rows = []
        for index in request.index.tolist():
            raw = split.raw(index)
            views: Any = self.views
            shown = split.fit(raw) if request.view is None else views.sample(raw, split, index, request.view)
            rows.append(split.finish(shown))
        return {**stack(rows), "sample": split.ids[request.index]}


class Loader:
    """Reads the batches of all splits of a run, and brings them to the device.

    Splits in memory are read here. The processes start with the first batch of files and stay from epoch to
    epoch until ``close``. They are forked off a clean server process that has no threads, no GPU and
    nothing of Ray's (spawned where there is no such server): forking a process that has those can hang.
    As with every spawned process, a script that trains with loaders needs ``if __name__ == "__main__":``.
    They ignore Ctrl-C, which the run handles, and end with the process that started them, however
    that ends.

    Args:
        views: the views of training; they must be ``bind``-ed already.
        processes: how many read ahead; 0: none, batches are read here when they are asked for.

    Raises:
        UserError: views of raw samples on a split that has none.
    """

    def __init__(
        self, splits: Mapping[str, Split], views: Views, device: torch.device, processes: int = 0
    ) -> None:
        if views.per_sample and not is_raw(splits["train"]):
            raise UserError(
                f"views: '{views.name}' reads raw samples of files, and the training data lies in memory; "
                "expected views of whole batches ('ray-kd list views' says which those are)."
            )
        self.rows, self.device, self.processes = Rows(splits, views), device, processes
        self.carries = 0
        """Bytes of targets that come with a training sample."""
        self._plan: Sequence[Request] = ()
        self._loader: DataLoader | None = None
        self._died = 0

    def name_of(self, split: Split) -> str | None:
        """What this loader calls a split; None: it does not know it."""
        return next((name for name, known in self.rows.splits.items() if known is split), None)

    def announce(self, requests: Iterator[Request]) -> None:
        """Learn which training batches will be requested from now on, in this order."""

    def __call__(self, requests: Iterable[Request]) -> Iterator[dict[str, Tensor]]:
        """The batches of the requests, in their order, on the device and as ``gather`` gives them.

        Raises:
            UserError: a file that is missing or damaged.
            TrainingFailed: processes died again and again.
        """
        for request, rows in self._read(list(requests)):
            if isinstance(rows, Failure):
                raise UserError(rows.message)
            split = self.rows.splits[request.split]
            batch = {name: value.to(self.device, non_blocking=True) for name, value in rows.items()}
            yield split.ready(batch) if is_raw(split) else batch

    def _read(self, requests: list[Request]) -> Iterator[tuple[Request, dict[str, Tensor] | Failure]]:
        done = 0
        while done < len(requests):
            if not self.processes or isinstance(self.rows.splits[requests[done].split], TensorSplit):
                yield requests[done], self.rows.read(requests[done])
                done += 1
                continue
            try:
                for rows in self._ahead(requests[done:]):
                    yield requests[done], rows
                    done += 1
            except (RuntimeError, OSError, EOFError) as error:
                if not _is_of_a_death(error):
                    raise
                self._replace(error)

    def _ahead(self, requests: list[Request]) -> Iterator[Any]:
        """The same from the processes."""
        self._plan = requests
        if self._loader is None:
            pinned = self.device.type == "cuda"
            self._loader = process_loader(self.rows, _Plan(self), self.processes, pin_memory=pinned)
        try:
            batches = start_reading(self._loader)
        except NOT_PICKLABLE as error:
            self.close()
            raise UserError(
                f"resources.loaders: {self.processes}: the dataset or the views cannot be handed to "
                f"other processes ({error}); define their classes in a module, or set resources.loaders=0."
            ) from error
        yield from batches

    def _replace(self, error: Exception) -> None:
        """End the processes after one of them died; the next batch starts new ones."""
        self.close()
        self._died += 1
        if self._died > REPLACED:
            raise TrainingFailed(
                f"loader processes died {self._died} times ({str(error).splitlines()[0]}). The usual "
                "reasons: too little memory or shared memory (/dev/shm): set resources.loaders lower; or "
                'a script that trains outside of `if __name__ == "__main__":`.'
            ) from error
        logger(__name__).info("a loader process died and is replaced: %s", error)

    def close(self) -> None:
        """End the processes."""
        loader, self._loader = self._loader, None
        if loader is not None:
            end_processes(loader)


def process_loader(rows: Dataset, plan: Any, count: int, **how: Any) -> DataLoader:
    """A DataLoader that reads the requests of a plan in order, ahead, in ``count`` processes."""
    return DataLoader(
        rows,
        sampler=plan,
        batch_size=None,
        num_workers=count,
        collate_fn=_as_it_is,
        prefetch_factor=AHEAD,
        persistent_workers=True,
        worker_init_fn=_begin,
        multiprocessing_context=_context(),
        generator=torch.Generator(),  # the global one is the training's
        **how,
    )


def start_reading(loader: DataLoader) -> Iterator[Any]:
    """Start the processes of a loader; an iterator over what they read.

    Raises:
        one of ``NOT_PICKLABLE``: what it reads cannot be handed to other processes.
    """
    with warnings.catch_warnings():  # PyTorch warns of what is raised
        warnings.filterwarnings("ignore", message="Got pickle error")
        return iter(loader)


def end_processes(loader: DataLoader) -> None:
    """End the processes of a loader."""
    started: Any = loader._iterator
    if started is not None:
        started._shutdown_workers()  # DataLoader itself leaves this to the garbage collector


class _Plan:
    """What a loader's processes are to read next, looked up anew for each pass."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, int | None]]:
        return ((asked.split, asked.index.numpy(), asked.view) for asked in self.loader._plan)

    def __len__(self) -> int:
        return len(self.loader._plan)


def default_processes(loaders: int | None, cpus: float, device: torch.device) -> int:
    """How many loader processes a run has: ``loaders``, or with a GPU one for each core, 8 at most."""
    if loaders is not None:
        return loaders
    return max(1, min(8, int(cpus))) if device.type == "cuda" else 0


def _is_of_a_death(error: Exception) -> bool:
    """Whether an error means that a process is gone, or what it had in shared memory, and not that what
    it read was wrong."""
    if "DataLoader worker process" in str(error):
        return False
    gone = (ConnectionError, EOFError, FileNotFoundError)
    return "DataLoader worker (pid" in str(error) or isinstance(error, gone)


def _as_it_is(rows: Any) -> Any:
    return rows


def _begin(number: int) -> None:
    """What each process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """DataLoader's own watchdog looks at the parent process, which is the server and outlives the run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context
