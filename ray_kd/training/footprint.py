"""How large a run's networks and files are, from its networks without memory; nothing trains."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ray_kd.aggregation import Aggregator
from ray_kd.config.spec import RunSpec
from ray_kd.config.training import Optimizer, optimizer_class
from ray_kd.data.base import Dataset
from ray_kd.models.compiled import own_state
from ray_kd.models.create import draw_model, fitting
from ray_kd.paths import Path
from ray_kd.teacher import LiveTeacher
from ray_kd.training.build import aggregator_of, build_paths
from ray_kd.training.network_checks import made
from ray_kd.training.records import describe_data

EPOCH_BYTES, FIGURES_BYTES, CLASS_BYTES = 150, 220, 25
"""Bytes of an epoch's record without metrics, of metrics, and of a class where each has a figure."""
ROW_BYTES, GRADIENT_BYTES = 98, 36
"""Bytes of a path's row of an epoch beside its name, and more of them where gradients are measured."""
REST_BYTES, TOLD = 650, 4
"""Bytes of summary.json and environment.json without metrics, and how often metrics stand in them."""


@dataclass(frozen=True)
class Footprint:
    """The sizes of one run.

    Attributes:
        student: parameters of the student.
        adapters: parameters that the paths and the aggregator train beside it.
        teachers: parameters of the teachers that it asks, by name.
        weights: bytes of its two files of weights, the best and the last ones.
        state: bytes of one saved state; a run keeps two while it trains, and none once it has finished.
        records: bytes of its other files.
        memory: bytes of networks, gradients, moments and averaged weights; activations are not counted.
    """

    student: int
    adapters: int
    teachers: dict[str, int]
    weights: int
    state: int
    records: int
    memory: int


def footprint(spec: RunSpec, dataset: Dataset) -> Footprint:
    """The sizes of a run.

    Raises:
        UserError: its parts do not fit together.
    """
    student, teachers, paths, aggregator = made("run", lambda: _networks(spec, dataset))
    own, modules = list(own_state(student).items()), nn.ModuleList(paths)
    values = [value for _, value in own]
    trained = [p for p in nn.ModuleList([student, modules]).parameters() if p.requires_grad]
    trained += [p for p in aggregator.parameters() if p.requires_grad]
    moments = _moments(spec.optimizer)
    copies = 2 + (spec.training.ema is not None)  # the student's, the best ones, averaged ones
    kept = [*values * copies, *modules.state_dict().values(), *_tensors(aggregator.state_dict())]
    per_tensor, base = _overhead()
    count = len(kept) + len(trained) * len(moments)
    frozen = sum(_bytes([*net.parameters(), *net.buffers()]) for net in teachers.values())
    held = _bytes(values) * copies + frozen + _bytes(modules.state_dict().values())
    return Footprint(
        student=sum(p.numel() for p in student.parameters()),
        adapters=sum(p.numel() for p in trained) - sum(p.numel() for p in student.parameters()),
        teachers={name: sum(p.numel() for p in net.parameters()) for name, net in teachers.items()},
        weights=2 * (_bytes(values) + _header(own)),
        state=round(_bytes(kept) + _bytes(trained) * sum(moments) + base + per_tensor * count),
        records=_records(spec, dataset, aggregator),
        memory=round(held + _bytes(trained) * (1 + sum(moments))),
    )


def _networks(
    spec: RunSpec, dataset: Dataset
) -> tuple[nn.Module, dict[str, nn.Module], list[Path], Aggregator]:
    student = draw_model(spec.student, **fitting(spec.student, spec, dataset), seed=spec.seed)
    place = torch.empty(0).device
    teachers = {}
    for name in spec.needed_teachers():
        options = spec.teachers[name].model
        net = draw_model(options, **fitting(options, spec, dataset), seed=spec.seed)
        teachers[name] = LiveTeacher(net, place)
    paths = build_paths(spec, student, teachers)
    aggregator = aggregator_of(spec.aggregation, paths, spec.seed)
    return student, {name: teacher.model for name, teacher in teachers.items()}, paths, aggregator


def _bytes(values: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in values)


def _tensors(state: dict[str, object]) -> Iterator[Tensor]:
    return (value for value in state.values() if isinstance(value, Tensor))


def _header(state: list[tuple[str, Tensor]]) -> int:
    """Bytes of the head of a safetensors file: JSON, padded to eight."""
    head, begin = {}, 0
    for name, value in state:
        end = begin + value.numel() * value.element_size()
        kind = {"float32": "F32", "int64": "I64"}.get(str(value.dtype).removeprefix("torch."), "F16")
        head[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [begin, end]}
        begin = end
    return 8 + -(-len(json.dumps(head, separators=(",", ":"))) // 8) * 8


@functools.lru_cache
def _overhead() -> tuple[float, float]:
    """Bytes that ``torch.save`` adds for each tensor, and once."""

    def size(count: int) -> int:
        buffer = io.BytesIO()
        torch.save({f"layer1.0.conv{index}.weight": torch.zeros(16) for index in range(count)}, buffer)
        return buffer.tell() - 64 * count

    each = (size(40) - size(20)) / 20
    return each, size(20) - 20 * each + 6500  # and the figures of epochs, and the optimizer's settings


def _moments(options: Optimizer) -> list[float]:
    """The tensors that the optimizer keeps for a matrix, in sizes of that matrix."""
    parameter = nn.Parameter(torch.zeros(64, 64))
    optimizer = optimizer_class(options.name)([parameter], **options.settings())
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = optimizer.state.get(parameter, {}).values()
    return [value.numel() / parameter.numel() for value in kept if isinstance(value, Tensor)]


def _records(spec: RunSpec, dataset: Dataset, aggregator: Aggregator) -> int:
    epochs, task = spec.training.epochs, spec.task.component_name
    evaluated = -(-epochs // spec.training.evaluate_every)
    rows = sum(ROW_BYTES + len(name) for name in aggregator.names)
    if aggregator.tier == 2 and aggregator.losses:
        rows += GRADIENT_BYTES * len(aggregator.names)
    figures = FIGURES_BYTES
    if task == "segmentation":
        figures += CLASS_BYTES * dataset.classes_of(task)
    if spec.training.ema is not None:
        figures *= 2  # those of the raw weights stand beside
    told = len(json.dumps(describe_data(dataset, task), indent=2)) + len(spec.to_yaml())
    return epochs * (EPOCH_BYTES + rows) + (evaluated + TOLD) * figures + told + REST_BYTES
