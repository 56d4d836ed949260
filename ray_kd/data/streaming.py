"""Training batches that another process reads ahead, together with their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ray_kd.data.base import Split, TensorSplit
from ray_kd.data.loading import Failure, Loader, Request
from ray_kd.data.views import Views

LoadedRows = dict[str, Tensor] | Failure
BatchStream = Callable[[Iterator[Request]], Iterator[tuple[Request, LoadedRows]]]
"""Loads the rows of requests in their order, ahead of their use.

Loaded rows hold the samples' encoded targets and, unless the dataset is in memory, the samples.
"""


class StreamLoader(Loader):
    """Takes announced training batches from a stream; reads all other batches itself.

    Args:
        splits, views, device, processes: as ``Loader`` has them.
        carries: bytes of the targets of a sample.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        views: Views,
        device: torch.device,
        processes: int,
        stream: BatchStream,
        carries: int,
    ) -> None:
        super().__init__(splits, views, device, processes)
        self.carries, self._stream = carries, stream
        self._loaded: Iterator[tuple[Request, LoadedRows]] | None = None

    def announce(self, requests: Iterator[Request]) -> None:
        """See ``Loader``; the stream begins with the first batch that is asked for."""
        self._leave()
        self._loaded = self._stream(requests)

    def close(self) -> None:
        """End the stream and the processes."""
        self._leave()
        super().close()

    def _leave(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()  # type: ignore[attr-defined]

    def _read(self, requests: list[Request]) -> Iterator[tuple[Request, LoadedRows]]:
        if self._loaded is None or not requests or requests[0].shown is None:
            yield from super()._read(requests)
            return
        for request in requests:
            known, rows = next(self._loaded)
            if known.shown != request.shown or not torch.equal(known.index, request.index):
                raise RuntimeError("a training batch was asked for that was not announced")
            if isinstance(self.rows.splits[request.split], TensorSplit) and isinstance(rows, dict):
                rows = {**self.rows.read(request), **rows}
            yield request, rows
