"""What tests of ``Distiller`` share: small networks and data, and the loop that its documentation shows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ray_kd import Distiller, Outputs
from ray_kd.training.open_step import OpenStep

Batch = dict[str, Tensor]
PATHS: list[Any] = ["soft_target", {"name": "attention_transfer", "weight": 10, "warmup_epochs": 2}, "nst"]
UNWEIGHTED: list[Any] = ["soft_target", "attention_transfer", "nst"]
UTILITY = {"name": "utility", "dense_every": 2, "burn_in": 4}
"""Measures at steps 2, 4, 6 ..., judges from step 8 on, and looks at the batch of the step before."""


class Net(nn.Module):
    """Two stages and logits."""

    stage_channels = (4, 6)

    def __init__(self, seed: int = 0, dropout: float = 0.0, norm: bool = False, classes: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.one, self.two = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
            self.head = nn.Linear(6, classes)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.first, self.second = nn.ReLU(), nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Tensor) -> Outputs:
        one = self.first(self.norm(self.one(image)))
        two = self.second(self.two(one))
        return Outputs((one, two), self.head(self.dropout(two.mean((2, 3)))))


class Bare(nn.Module):
    """The same without a word about features: logits alone."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.inner = Net(seed)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.inner(image).logits
        assert logits is not None
        return logits


def data(steps: int = 4, size: int = 12, seed: int = 5) -> list[Batch]:
    stream = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randn(size, 1, 8, 8, generator=stream),
            "label": torch.randint(10, (size,), generator=stream),
            "sample": torch.arange(size) + size * index,
        }
        for index in range(steps)
    ]


def made(
    steps: int | None = 8,
    aggregation: Any = "fixed",
    paths: list[Any] = PATHS,
    student: Any = None,
    **more: Any,
) -> tuple[Distiller, torch.optim.Optimizer]:
    distiller = Distiller(
        student or Net(1), Net(2), paths=paths, aggregation=aggregation, steps=steps, **more
    )
    return distiller, distiller.optimizer(torch.optim.SGD, lr=0.05, momentum=0.9)


def train(
    distiller: Distiller,
    optimizer: Any,
    batches: list[Batch],
    epochs: int,
    until: int | None = None,
    calls: Any = (),
) -> OpenStep:
    """The loop of the documentation; each batch in calls of so many samples; it may be left early."""
    for _ in distiller.epochs(epochs):
        for batch in islice(batches, distiller.steps_in_epoch, None):
            with distiller.step(optimizer) as step:
                parts = {key: value.split(list(calls) or len(value)) for key, value in batch.items()}
                for index in range(len(parts["image"])):
                    step({key: value[index] for key, value in parts.items()})
            if distiller.engine.taken == until:
                return step
    return step


def state_of(distiller: Distiller) -> dict[str, Tensor]:
    """Student and adapters."""
    return {name: value.clone() for name, value in distiller.engine.module.state_dict().items()}


def within(distiller: Distiller, act: Callable[[], object]) -> None:
    for _ in distiller.epochs(2):
        act()


def take(distiller: Distiller, sgd: Any, batch: Any = None) -> OpenStep:
    with distiller.step(sgd) as step:
        step(data()[0] if batch is None else batch)
    return step
