"""Corrupt targets on purpose, to test whether a strategy detects that a path is worthless.

A corruption acts on a target after it was produced, live or stored, and is a pure function of the
target, the batch's samples, the seed and the step. With several ranks it acts on the global batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ray_kd.data.draws import uniform
from ray_kd.outputs import main_class
from ray_kd.paths.gather import all_rows, own_rows
from ray_kd.random_streams import generator, key

Corruption = Literal["shuffle", "shuffle_fixed", "noise"]


@torch.no_grad()
def corrupt(
    kind: Corruption,
    target: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    step: int,
    seed: int,
    name: str = "",
) -> dict[str, Tensor]:
    """A corrupted target of a path.

    Args:
        kind: ``shuffle``: a permutation of the batch, drawn in each step, that gives every sample the target
            of a sample of another class; if one class has more than half of the batch, of any other sample.
            ``shuffle_fixed``: the target of the sample of another class in the batch that this sample ranks
            first; each sample ranks classes, and then samples, in a random order that is fixed for the whole
            run, so that the wrong class can be memorised.
            ``noise``: normal random numbers with the batch's mean and standard deviation of each entry.
        target: tensors whose rows are samples.
        batch: with ``sample`` ids (N,), and, if samples have classes, ``label``: classes (N,) or shares
            (N, K), of which the largest counts. Without classes any other sample may be a partner.
        name: the path's name, so that two corrupted paths draw different numbers.
    """
    sample = all_rows(batch["sample"])
    rows = {entry: all_rows(values) for entry, values in target.items()}
    if kind == "noise":
        changed = {entry: _noise(values, sample, (seed, name, entry, step)) for entry, values in rows.items()}
    else:
        label = batch.get("label")
        label = sample if label is None or label.dim() > 2 else all_rows(main_class(label))
        if kind == "shuffle":
            partner = other_class(sample, label, seed, name, step)
        else:
            partner = favourite(sample, label, seed, name)
        changed = {entry: values[partner] for entry, values in rows.items()}
    return {entry: own_rows(values) for entry, values in changed.items()}


def other_class(sample: Tensor, label: Tensor, seed: int, name: str, step: int) -> Tensor:
    """A permutation (N,) that maps every sample to one of another class, if that is possible.

    Samples are ordered by class, with a random order of classes and within each, and the order is rotated
    by at least the size of the largest class and at most N minus that size.
    """
    count = len(sample)
    by_id = sample.argsort()
    draw = generator(seed, "shuffle", name, step)
    chance = torch.rand(count, generator=draw, dtype=torch.float64)
    turn = float(torch.rand((), generator=draw))
    within = torch.empty(count, dtype=torch.float64, device=sample.device)
    within[by_id] = chance.to(sample.device)
    classes, member, sizes = label.unique(return_inverse=True, return_counts=True)
    place = torch.rand(len(classes), generator=draw).argsort().to(sample.device)
    line = (place[member] + within).argsort()
    largest = int(sizes.max())
    low, high = (largest, count - largest) if 2 * largest <= count else (1, max(1, count - 1))
    shift = low + int(turn * (high - low + 1))
    partner = torch.empty_like(line)
    partner[line] = line.roll(-shift)
    return partner


def favourite(sample: Tensor, label: Tensor, seed: int, name: str) -> Tensor:
    """For each sample, the sample of another class in the batch (N,) that it ranks first."""
    stream = key(seed, "shuffle_fixed", name)
    # A rank is drawn for a pair (sample, class), whichever classes are in the batch.
    pairs = sample[:, None] * 0x1000003 + label[None, :]
    liking = uniform(stream, "class", pairs.flatten(), 0, 1).view(len(sample), -1).double()
    liking = liking + uniform(stream, "sample", sample, 0, 1).T.double() * 2**-25
    excluded = label[:, None] == label[None, :]
    if bool(excluded.all()):
        excluded = torch.eye(len(sample), dtype=torch.bool, device=sample.device)
    return liking.masked_fill(excluded, 2.0).argmin(dim=1)


def _noise(values: Tensor, sample: Tensor, stream: tuple[int | str, ...]) -> Tensor:
    noise = torch.randn(values.shape, generator=generator("noise", *stream), dtype=torch.float32)
    ordered = torch.empty_like(noise)
    ordered[sample.argsort().cpu()] = noise
    spread, mean = torch.std_mean(values.to(torch.float32), dim=0, correction=0)
    drawn = mean + spread * ordered.to(values.device)
    if not values.is_floating_point():  # such as a class: one that occurs
        drawn = drawn.round().clamp(values.min(), values.max())
    return drawn.to(values.dtype)
