"""A student small enough to train a thousand times in a test, and losses of every kind on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.aggregation import Aggregator, Gradients, Update
from ray_kd.training.step import create_optimizers

STAGED = ("hint", "attention/stage0", "attention/stage1", "soft")
ON_LOGITS = ("soft", "margin/a", "margin/b", "square")


class Toy(nn.Module):
    """Three layers, an adapter, a batch of 16 and fixed random targets, all keyed by a seed.

    Its losses: ``task``; ``hint`` through an adapter on the second layer; ``attention`` on two layers;
    ``soft``, ``square`` and ``margin`` on the logits. Their scales differ by a factor of 1,000.
    """

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).to(device, dtype)

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            sizes = {"stem": (6, 8), "deep": (8, 8), "head": (8, 5), "spare": (2, 2)}
            layers = {name: nn.Linear(*size) for name, size in sizes.items()}
            self.student = nn.ModuleDict(layers).to(device, dtype)
            self.adapter = nn.Linear(8, 7).to(device, dtype)
        self.image, self.hint, self.teacher = random(16, 6), random(16, 7), 2 * random(16, 5)
        self.maps, self.label = (random(16, 8), random(16, 8)), torch.arange(16, device=device) % 5

    def forward(
        self, names: Iterable[str] = STAGED, rows: slice = slice(None), exchange: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The task loss and the named path losses on the batch (or some of its rows).

        Args:
            exchange: every sample gets the targets of the one so many places on.
        """
        stem = torch.tanh(self.student["stem"](self.image[rows]))
        deep = torch.tanh(self.student["deep"](stem))
        logits = self.student["head"](deep)
        self.logits = logits
        teacher, hint, *maps = (t.roll(-exchange, 0)[rows] for t in (self.teacher, self.hint, *self.maps))
        losses: dict[str, Callable[[], Tensor]] = {
            "hint": lambda: F.mse_loss(self.adapter(deep), hint),
            "attention/stage0": lambda: 1e-3 * F.mse_loss(stem, maps[0]),
            "attention/stage1": lambda: 2e-3 * F.mse_loss(deep, maps[1]),
            "soft": lambda: F.kl_div(
                logits.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean"
            ),
            "square": lambda: 10 * F.mse_loss(logits, teacher),
            "margin/a": lambda: 0.1 * (logits[:, 0] - teacher[:, 0]).abs().mean(),
            "margin/b": lambda: 0.1 * (logits[:, 1] - teacher[:, 1]).pow(2).mean(),
        }
        return F.cross_entropy(logits, self.label[rows]), {name: losses[name]() for name in names}

    def gradients(self, reduce: Callable[[Tensor], Tensor] | None = None, chunk: int = 1) -> Gradients:
        """What a tier-2 aggregator computes gradients with; after a forward."""
        made = Gradients(
            self.student.named_parameters(), adapters=self.adapter.parameters(), reduce=reduce, chunk=chunk
        )
        made.tensors = {"logits": self.logits}
        return made

    def layer(self, name: str) -> nn.Linear:
        """A layer of the student; ``spare`` is upstream of nothing."""
        return cast(nn.Linear, self.student[name])

    def trained(self) -> list[nn.Parameter]:
        """Everything a loop trains here."""
        return [*self.student.parameters(), *self.adapter.parameters()]


class Loop:
    """The training loop that aggregators are written for, as short as it can be.

    Args:
        lr: learning rate; 0 keeps the losses as they are.
    """

    def __init__(
        self, aggregator: Aggregator, toy: Toy, names: Iterable[str] = STAGED, lr: float = 0.05
    ) -> None:
        self.aggregator, self.toy, self.names = aggregator, toy, tuple(names)
        groups = [{"params": toy.trained()}]
        self.optimizers = create_optimizers(torch.optim.SGD, groups, aggregator, "", lr=lr, momentum=0.9)
        self.taken = 0

    def step(self, change: Callable[[Tensor, dict[str, Tensor]], None] | None = None) -> Update:
        """One step; ``change`` may alter the losses before they are combined."""
        if self.taken % 3 == 0:
            self.aggregator.begin_epoch(self._means() if self.taken else None)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        task, losses = self.toy(self.names)
        if change is not None:
            change(task, losses)
        gradients = self.toy.gradients()
        gradients.evaluate = lambda same, placebo: (self._again(change), self._again(change, int(placebo)))
        update: Update = self.aggregator(task, losses, gradients)
        update.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.aggregator.after_step(lambda: self._again(change))
        self.taken += 1
        return update

    def steps(self, count: int) -> list[dict[str, float]]:
        """Effective factors of so many steps."""
        return [self.step().weights for _ in range(count)]

    def _again(
        self, change: Callable[[Tensor, dict[str, Tensor]], None] | None, exchange: int = 0
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            task, losses = self.toy(self.names, exchange=exchange)
            if change is not None:
                change(task, losses)
        return cast("dict[str, Tensor]", losses)

    def _means(self) -> Mapping[str, float]:
        with torch.no_grad():
            losses = list(self.toy(self.names)[1].values())
        return {name: float(sum(losses[i] for i in rows)) for name, rows in self.aggregator.groups.items()}
