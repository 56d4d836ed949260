"""What a process keeps in memory from run to run: datasets, teachers, and teachers' predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ray_kd.config.options import Options
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset, Split
from ray_kd.data.create import create_dataset
from ray_kd.models.compiled import own_state
from ray_kd.outputs import Outputs
from ray_kd.storage import Store
from ray_kd.tasks import Task, TeacherPredictions
from ray_kd.teacher import LiveTeacher, load_teacher
from ray_kd.teacher.normalise import renormalisation
from ray_kd.training.evaluation import evaluate, evaluate_predictions
from ray_kd.training.object_records import require_same_runs
from ray_kd.training.run_context import RunContext

KEPT = 8
"""The most datasets, teachers ... that are kept: where a sweep's seeds redraw them, each seed has its own."""
KEPT_BYTES = 1 << 30
"""The most bytes of a teacher's predictions on one split that are kept."""
JUDGED = 1024
"""Samples on which a teacher is compared with chance before it teaches."""


class ProcessCache:
    """Keeps loaded objects by identity, so that the next run of a sweep finds them in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def dataset(self, options: Options, device: torch.device) -> Dataset:
        """A dataset; splits in memory are on ``device``."""
        return self.once(("dataset", options.full(), device), lambda: create_dataset(options, device))

    def teacher(
        self, spec: RunSpec, name: str, store: Store, device: torch.device, own: Dataset | None = None
    ) -> LiveTeacher:
        """A trained teacher.

        Args:
            own: the student's dataset, where no spec names it; nothing is kept then.
        """
        if own is not None:
            return self.fresh_teacher(spec, name, store, device, own)
        key = ("teacher", teacher_key(spec, name), store.uri, device)
        return self.once(key, lambda: self.fresh_teacher(spec, name, store, device))

    def fresh_teacher(
        self, spec: RunSpec, name: str, store: Store, device: torch.device, own: Dataset | None = None
    ) -> LiveTeacher:
        """A trained teacher that is not kept."""
        trained = spec.teachers[name].weights is None
        if trained:
            require_same_runs(store, [spec.teacher_run(name)])
        dataset = own or self.dataset(spec.dataset, device)
        taught = self.dataset(spec.teacher_run(name).dataset, device) if trained and own else dataset
        model = load_teacher(spec, name, store, taught)
        return LiveTeacher(model, device, renormalisation(spec, name, dataset))

    def predictions(
        self, teacher: LiveTeacher, task: Task, split: Split, device: torch.device, rank: int, world: int
    ) -> TeacherPredictions:
        """A teacher's predictions for a split's evaluation batches, each computed once; those that do not fit
        into ``KEPT_BYTES`` are computed in each call."""
        # Objects are part of the key by id; the kept tuple keeps them alive.
        key = ("predictions", task.name, id(teacher), id(split), device, rank, world)
        kept: dict[int, Outputs] = self.once(key, lambda: ({}, teacher, split))[0]

        def predict(index: int, batch: Mapping[str, Tensor]) -> Outputs:
            if index in kept:
                return kept[index]
            found = task.predictions(teacher.outputs(batch["image"]))
            if sum(map(_bytes, [*kept.values(), found])) <= KEPT_BYTES:
                kept[index] = found
            return found

        return predict

    def figures(
        self,
        teacher: LiveTeacher,
        task: Task,
        split: Split,
        predictions: TeacherPredictions | None,
        context: RunContext,
    ) -> dict[str, float]:
        """A teacher's own metrics on ``JUDGED`` samples of a split, computed once; every rank must call it.

        Args:
            predictions: the teacher's stored predictions; None: run the teacher.
        """
        key = ("figures", task.name, id(teacher), id(split), context.device, context.rank, context.world)

        def make() -> tuple[dict[str, float], LiveTeacher, Split]:
            part = EverySoMany(split, -(-len(split) // JUDGED))
            if predictions is None:
                return evaluate(TeacherNetwork(teacher), task, part, None, context), teacher, split
            return evaluate_predictions(predictions, task, part, context), teacher, split

        figures: dict[str, float] = self.once(key, make)[0]
        return figures

    def once(self, key: tuple[Any, ...], make: Any) -> Any:
        """The value of ``make()``, called once for each key while it is among the last ``KEPT`` of its kind.

        Args:
            key: its first entry is the kind.
        """
        text = json.dumps(key, sort_keys=True, default=str)
        value = self._kept.pop(text) if text in self._kept else make()
        self._kept[text] = value  # the last one used comes last
        alike = [other for other in self._kept if other.startswith(json.dumps(key[:1])[:-1])]
        for other in alike[:-KEPT]:
            del self._kept[other]
        return value


class TeacherNetwork(nn.Module):
    """A live teacher as a network for ``evaluate``; always in evaluation mode."""

    def __init__(self, teacher: LiveTeacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Outputs:
        return self.teacher.outputs(images)


class EverySoMany:
    """Every n-th sample of a split, which keeps all classes even if the split is sorted by class."""

    def __init__(self, split: Split, step: int) -> None:
        self.split, self.step = split, max(1, step)
        self.ids = split.ids[:: self.step]

    def __len__(self) -> int:
        return len(self.ids)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        return self.split.gather(index * self.step)


def teacher_key(spec: RunSpec, name: str) -> str:
    """The key under which a teacher is kept: equal for the same teacher of different runs."""
    return json.dumps([spec.essence()["teachers"][name], spec.dataset.essence()], sort_keys=True)


def _bytes(outputs: Outputs) -> int:
    held = [*outputs.features, *outputs.extra.values(), *([] if outputs.logits is None else [outputs.logits])]
    return sum(values.numel() * values.element_size() for values in held)


def student_state(student: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of the student's weights on the CPU, without adapters, under the student's own names."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in own_state(student).items()}
