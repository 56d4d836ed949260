"""Pieces that several networks for small images are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def conv_bn(
    into: int,
    out: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
    inplace: bool = True,
) -> nn.Sequential:
    """Convolution without bias that keeps the size (over its stride), BatchNorm, and ReLU if asked for."""
    return nn.Sequential(
        nn.Conv2d(into, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        *([nn.ReLU(inplace=inplace)] if relu else []),
    )


def stack_stages(
    stem: nn.Module,
    into: int,
    widths: Sequence[int],
    blocks: Sequence[int],
    strides: Sequence[int],
    block: Callable[[int, int, int], nn.Module],
) -> nn.Sequential:
    """Stages of blocks in sequence, the stem as a part of the first.

    Args:
        stem: what comes before the first block; it has ``into`` channels.
        widths, blocks, strides: of each stage its channels, how many blocks it has, and the stride of its
            first block.
        block: makes a block from the channels it gets, the channels it gives, and its stride.
    """
    stages: list[nn.Module] = []
    for width, count, stride in zip(widths, blocks, strides, strict=True):
        chain = [] if stages else [stem]
        for number in range(count):
            chain.append(block(into, width, 1 if number else stride))
            into = width
        stages.append(nn.Sequential(*chain))
    return nn.Sequential(*stages)


def shuffle(image: Tensor, groups: int) -> Tensor:
    """Channels (N, C, H, W) dealt out anew, so that what comes next reads from all groups."""
    return image.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


@torch.no_grad()
def initialise(module: nn.Module, linear: float | None = None) -> None:
    """Convolutions from N(0, 2 / (k k out)) with bias 0, as the CIFAR code bases have it.

    Args:
        module: whose convolutions.
        linear: the standard deviation of its linear layers' weights, their bias 0; None: PyTorch's own.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, nn.Linear) and linear is not None:
            part.weight.normal_(0, linear)
            part.bias.zero_()
