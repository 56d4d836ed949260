"""Training batches that somebody else reads ahead, their targets with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ray_kd.data.base import Split, TensorSplit
from ray_kd.data.loading import Failure, Loader, Request
from ray_kd.data.views import Views

Answer = dict[str, Tensor] | Failure
Stream = Callable[[Iterator[Request]], Iterator[tuple[Request, Answer]]]
"""Answers requests in their order, as far ahead of the one who takes the answers as it sees fit.

An answer has the encoded targets of the samples, and, where the set does not lie in memory, the samples.
"""


class StreamLoader(Loader):
    """Takes training batches out of a stream once they are announced; reads everything else itself.

    Args:
        splits, views, device, processes: as ``Loader`` has them.
        stream: what reads the training batches.
        carries: bytes of the targets of a sample.
    """

    def __init__(
        self,
        splits: Mapping[str, Split],
        views: Views,
        device: torch.device,
        processes: int,
        stream: Stream,
        carries: int,
    ) -> None:
        super().__init__(splits, views, device, processes)
        self.carries, self._stream = carries, stream
        self._answers: Iterator[tuple[Request, Answer]] | None = None

    def announce(self, requests: Iterator[Request]) -> None:
        """See ``Loader``; the stream begins with the first batch that is asked for."""
        self._leave()
        self._answers = self._stream(requests)

    def close(self) -> None:
        """End the stream and the processes."""
        self._leave()
        super().close()

    def _leave(self) -> None:
        answers, self._answers = self._answers, None
        if answers is not None:
            answers.close()  # type: ignore[attr-defined]

    def _read(self, requests: list[Request]) -> Iterator[tuple[Request, Answer]]:
        if self._answers is None or not requests or requests[0].shown is None:
            yield from super()._read(requests)
            return
        for request in requests:
            known, answer = next(self._answers)
            if known.shown != request.shown or not torch.equal(known.index, request.index):
                raise RuntimeError("a training batch was asked for that was not announced")
            if isinstance(self.rows.splits[request.split], TensorSplit) and isinstance(answer, dict):
                answer = {**self.rows.read(request), **answer}
            yield request, answer
