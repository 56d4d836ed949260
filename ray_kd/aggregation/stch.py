"""Smooth Tchebycheff scalarisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ray_kd.aggregation.base import Aggregator
from ray_kd.config.options import AggregatorOptions
from ray_kd.config.registry import AGGREGATORS

TINY = 1e-20


class StchOptions(AggregatorOptions):
    """Options of smooth Tchebycheff scalarisation."""

    form: Literal["paper", "code"] = "paper"
    """paper: the publication's formula on the losses. code: the published code's, on logarithms."""
    mu: Annotated[float, Field(gt=0)] = 0.1
    """Smoothness, in units of the weighted losses (code: of their logarithms); smaller: closer to the largest
    loss alone."""
    ideal: float = 0.0
    """The best value z that each loss may reach; of ``form: paper``."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 4
    """Epochs before the one whose mean losses are the nadir; of ``form: code``."""

    @model_validator(mode="after")
    def _ideal_of_the_paper(self) -> StchOptions:
        if self.form == "code" and self.ideal:
            raise ValueError(f"ideal: expected 0 with form: code, which has none, got {self.ideal}")
        return self


@AGGREGATORS.register("stch", source="Lin et al., ICML 2024, arXiv 2402.19078")
class Stch(Aggregator):
    r"""Smooth Tchebycheff: :math:`\mu \ln \sum_i \exp(w_i (L_i - z) / \mu)`, a smooth maximum of the losses.

    As a weighted sum with the same gradient: factors :math:`softmax_i(w_i (L_i - z) / \mu)`, which sum to 1.
    Sensitive to scale: among losses of different size the largest gets all weight; static weights help.

    ``form: code`` is what the authors train with, which does not depend on the scale of a loss:
    :math:`n \mu \ln \sum_i \exp(w_i \ln(L_i / N_i) / \mu)` for n losses, N_i (the nadir) the mean of a loss
    over epoch ``warmup_epochs`` (0-based); up to the end of that epoch it is :math:`\sum_i w_i \ln L_i`.
    Needs ``begin_epoch`` with the last epoch's means.

    Source: Lin, Zhang, Yang, Liu, Wang, Zhang, ICML 2024, arXiv 2402.19078, and its code. Deviations: the
    task loss is not weighted; preferences are the static weights (1 each, where the publication has 1/n and
    the code none); the default is the publication's formula and not the code's.
    """

    Options = StchOptions
    traits = frozenset({"stateful"})
    nadir: Tensor
    latest: Tensor
    epochs: Tensor

    def setup(self) -> None:
        for name in ("nadir", "latest"):
            self.register_buffer(name, torch.full((len(self.names),), torch.nan, dtype=torch.float64))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))

    def compare_epochs(self, means: Mapping[str, float]) -> None:
        newest = self.latest.new_tensor([means[name] for name in self.names])
        if torch.equal(newest, self.latest):
            return  # a run that resumed within the epoch
        self.latest = newest
        self.epochs += 1
        if int(self.epochs) == self.options.warmup_epochs + 1:
            self.nadir = newest

    def factors(self, seen: Tensor) -> Tensor:
        if self.options.form == "paper":
            shifted = seen - self.options.ideal * self.static if self.options.ideal else seen
            return (shifted / self.options.mu).softmax(0)
        self.refuse_negative(seen)
        if bool(self.nadir.isnan().any()):
            return self.static / (seen + TINY)
        raw = seen / self.static
        logarithms = self.static * torch.log(raw / self.nadir.to(raw).clamp(min=TINY) + TINY)
        return len(self.names) * (logarithms / self.options.mu).softmax(0) * self.static / (seen + TINY)
