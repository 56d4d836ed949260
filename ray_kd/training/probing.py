"""Forward passes that leave no trace: no statistic, no random stream and no path's state changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ray_kd.paths import Path
from ray_kd.paths.gather import all_rows, own_rows
from ray_kd.teacher.live import Targets


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Within the block BatchNorm uses batch statistics and updates none; after it generators are reset.

    Forward passes in two such blocks draw the same numbers. Use it without gradients: paths change their
    state only in forward passes with gradients.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [norm.track_running_stats for norm in norms]
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        for norm in norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm, tracks in zip(norms, kept, strict=True):
                norm.track_running_stats = tracks


@contextmanager
def keeping_statistics(module: nn.Module) -> Iterator[None]:
    """Within the block BatchNorm updates its running statistics; after it they are reset.

    For activations that are computed again during the backward pass: the second forward pass has to save the
    same tensors as the first, and autograd must not notice that the buffers were written to.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.data.copy_(value)


@contextmanager
def training_mode(student: nn.Module, paths: nn.ModuleList) -> Iterator[None]:
    """Within the block student and paths are in training mode; after it modes and buffers are reset."""
    modules = nn.ModuleList([student, paths])
    modes = [(module, module.training) for module in modules.modules()]
    members = cast("list[Path]", paths)
    recording = [path.recording for path in members]
    kept = [(buffer, buffer.clone()) for buffer in student.buffers()]
    student.train()
    paths.train()
    try:
        with untouched(modules), torch.enable_grad():
            for path in members:
                path.recording = False
            yield
    finally:
        for path, was in zip(members, recording, strict=True):
            path.recording = was
        for buffer, value in kept:
            buffer.copy_(value)
        for module, was_training in modes:
            module.training = was_training


def exchanged(targets: Targets, batch: Mapping[str, Tensor]) -> Targets:
    """Targets in which each sample has the target of the next sample, in the order of sample ids.

    The order is that of the global batch, so the result does not depend on the number of ranks.
    """
    sample = all_rows(batch["sample"])
    order = sample.argsort()
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return {
        label: {name: own_rows(all_rows(values)[partner]) for name, values in target.items()}
        for label, target in targets.items()
    }
