"""Mixup and CutMix: samples mixed with others of the whole training set, as a function of the sample."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ray_kd.config.errors import UserError
from ray_kd.config.options import ViewOptions
from ray_kd.data.base import Split
from ray_kd.data.draws import uniform
from ray_kd.data.views import Views


class MixOptions(ViewOptions):
    """Options of views that can mix samples; the labels of a mixed batch are shares of classes (N, K)."""

    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412): alpha of the Beta distribution of the own share;
    0: off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """CutMix (Yun et al., ICCV 2019, arXiv 1905.04899): the same for a rectangle of the partner's pixels.
    Where both are on, each sample draws one of them."""
    mixed: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Probability that a sample is mixed at all."""


class MixedViews(Views):
    """The base of views that can mix samples.

    The partner of a sample is drawn from the whole training set by the sample's own key, and comes under
    its own view. Both sources mix with a permutation of the batch instead, one share for the whole batch;
    that would make a view depend on what else is in the batch.
    """

    @classmethod
    def check(cls, options: Any, task: str) -> None:
        if mixes(options) and task != "classification":
            name = "mixup" if options.mixup else "cutmix"
            raise UserError(
                f"views {cls.name}: {name}: {getattr(options, name):g} mixes labels of classes, and the task "
                f"is {task}; expected 0."
            )

    def __call__(self, batch: Mapping[str, Tensor], view: int, split: Split) -> dict[str, Tensor]:
        shown = super().__call__(batch, view, split)
        if not mixes(self.options):
            return shown
        sample = batch["sample"]
        index = partners(self.options, sample, view, len(split))
        other = {
            name: value.to(sample.device) for name, value in split.gather(index.to(split.ids.device)).items()
        }
        return self.mix(shown, super().__call__(other, view, split), view)

    def mix(self, own: Mapping[str, Tensor], other: Mapping[str, Tensor], view: int) -> dict[str, Tensor]:
        """A batch under its views, mixed with its partners under theirs; images (N, C, H, W) of one size."""
        if self.classes is None:
            raise TypeError(
                f"views {self.name} mixes labels: bind(dataset, task) comes before the first batch"
            )
        image, label = mixed(self.options, own, other, view, self.classes)
        return {**own, "image": image, "label": label}


def mixes(options: MixOptions) -> bool:
    """Whether these options mix any sample."""
    return options.mixed > 0 and (options.mixup > 0 or options.cutmix > 0)


def partners(options: MixOptions, samples: Tensor, view: int, count: int) -> Tensor:
    """The places (N,) among ``count`` training samples of the partners of the samples (N,)."""
    draw = uniform(options.seed, "partner", samples, view, 2).double()
    place = (draw[:, 0] + draw[:, 1] / (1 << 24)) * count  # 48 bits: even for any number of samples
    return place.long().clamp_max(count - 1)


def mixed(
    options: MixOptions, own: Mapping[str, Tensor], other: Mapping[str, Tensor], view: int, classes: int
) -> tuple[Tensor, Tensor]:
    """Images and shares of classes (N, K) of samples mixed with their partners."""
    image, partner = own["image"], other["image"]
    draw = uniform(options.seed, "mix", own["sample"], view, 5).double()
    cut = draw[:, 1] < (0.5 if options.mixup and options.cutmix else float(options.cutmix > 0))
    alpha = options.mixup or options.cutmix
    share = beta(draw[:, 2], alpha)
    if options.cutmix and options.cutmix != alpha:
        share = torch.where(cut, beta(draw[:, 2], options.cutmix), share)
    share = torch.where(draw[:, 0] < options.mixed, share, 1.0)
    weight = share[:, None, None]
    if options.cutmix:
        height, width = image.shape[-2:]
        kept = ~(
            _stretch(draw[:, 3], share, height)[:, :, None] & _stretch(draw[:, 4], share, width)[:, None]
        )
        share = torch.where(cut, kept.double().mean(dim=(1, 2)), share)
        weight = torch.where(cut[:, None, None], kept.double(), weight)
    weight = weight.float()[:, None]
    blend = torch.lerp(partner.float(), image.float(), weight)
    if not image.is_floating_point():
        blend = blend.round()  # a mixed image has the 256 levels of any other
    label = torch.lerp(
        _shares(other["label"], classes), _shares(own["label"], classes), share.float()[:, None]
    )
    return blend.to(image.dtype), label


def beta(quantile: Tensor, alpha: float) -> Tensor:
    """Numbers distributed as Beta(alpha, alpha), from uniform ones in [0, 1), float64 (N,)."""
    table = _beta_table(alpha).to(quantile.device)
    place = quantile * (len(table) - 1)
    below = place.long().clamp_max(len(table) - 2)
    return torch.lerp(table[below], table[below + 1], place - below)


@lru_cache(maxsize=16)
def _beta_table(alpha: float) -> Tensor:
    """4097 even quantiles of Beta(alpha, alpha); lines between them are off by 1e-3 in the last bin alone."""
    import numpy as np
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, np.linspace(0, 1, 4097)))


def _stretch(centre: Tensor, share: Tensor, side: int) -> Tensor:
    """Which of ``side`` rows (or columns) a rectangle that leaves ``share`` of the area covers, (N, side)."""
    length = (side * (1 - share).sqrt()).long()
    middle = (centre * side).long()
    low, high = middle - length // 2, middle - length // 2 + length
    places = torch.arange(side, device=centre.device)
    return (places >= low[:, None]) & (places < high[:, None])


def _shares(label: Tensor, classes: int) -> Tensor:
    return F.one_hot(label, classes).float() if label.dim() == 1 else label.float()
