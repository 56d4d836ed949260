"""What a path is tested on: outputs of a student and a teacher, a batch, and two ranks in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_kd.outputs import Outputs
from ray_kd.paths.gather import gathering_over

T = TypeVar("T")


class Scene:
    """Random outputs of a student and a teacher for eight samples of four classes, keyed by a seed.

    Four stages of 4x4, 4x4, 2x2 and 2x2; widths differ, so that adapters are needed, and lie on both
    sides of the number of positions. The teacher's logits are those of its head.

    Args:
        seed: of the random numbers.
        dtype, device: of all tensors.
        scale: factor on all features and logits.
        teacher_grad: the teacher's outputs ask for gradients, to see that they get none.
    """

    student_channels: tuple[int, ...] = (5, 6, 7, 8)
    teacher_channels: tuple[int, ...] = (6, 10, 6, 12)
    sizes = (4, 4, 2, 2)
    count, classes = 8, 5
    loss: Tensor

    def __init__(
        self,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        scale: float = 1.0,
        teacher_grad: bool = False,
    ) -> None:
        self.dtype, self.device = dtype, device
        draw = torch.Generator().manual_seed(seed)
        model = nn.Module()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model.head = nn.Linear(self.teacher_channels[-1], self.classes)
        self.teacher_model = model.to(device, dtype)

        def maps(channels: tuple[int, ...]) -> list[Tensor]:
            shapes = [(self.count, c, s, s) for c, s in zip(channels, self.sizes, strict=True)]
            drawn = [torch.randn(shape, generator=draw, dtype=torch.float64).relu() for shape in shapes]
            return [(values * scale).to(device, dtype) for values in drawn]

        features, teacher = maps(self.student_channels), maps(self.teacher_channels)
        logits = torch.randn(self.count, self.classes, generator=draw, dtype=torch.float64) * 2 * scale
        with torch.no_grad():
            answer = 2 * model.head(teacher[-1].mean((2, 3)) / scale) * scale
        self.student = _leaves(Outputs(tuple(features), logits.to(device, dtype)), True)
        self.teacher = _leaves(Outputs(tuple(teacher), answer), teacher_grad)
        self.batch = {
            "sample": torch.tensor([11, 3, 40, 7, 23, 5, 19, 30], device=device),
            "label": torch.tensor([0, 1, 2, 0, 1, 2, 4, 4], device=device),
        }

    def rows(self, index: Any) -> Scene:
        """The same scene with some of its samples, or in another order."""
        scene = self._like()
        scene.student = _leaves(_rows(self.student, index), True)
        scene.teacher = _rows(self.teacher, index)
        scene.batch = {key: values[index] for key, values in self.batch.items()}
        return scene

    def as_teacher(self) -> Scene:
        """The same scene with a student that says what the teacher says."""
        scene = self._like()
        with torch.no_grad():
            logits = self.teacher_model.head(self.teacher.features[-1].mean((2, 3)))  # type: ignore[operator]
        scene.teacher = Outputs(self.teacher.features, logits)
        scene.student = _leaves(scene.teacher, True)
        scene.student_channels, scene.batch = self.teacher_channels, self.batch
        return scene

    def in_half(self) -> Scene:
        """The same scene with a student in bfloat16, as autocast leaves it."""
        scene = self._like()
        features = tuple(values.bfloat16() for values in self.student.features)
        logits = None if self.student.logits is None else self.student.logits.bfloat16()
        scene.student = _leaves(Outputs(features, logits), True)
        scene.teacher, scene.batch = self.teacher, self.batch
        return scene

    def _like(self) -> Scene:
        scene = object.__new__(Scene)
        scene.dtype, scene.device, scene.teacher_model = self.dtype, self.device, self.teacher_model
        return scene


def _leaves(outputs: Outputs, wants_grad: bool) -> Outputs:
    found = outputs.detach()
    values = [*found.features, *([] if found.logits is None else [found.logits])]
    for leaf in values:
        leaf.requires_grad_(wants_grad)
    return found


def _rows(outputs: Outputs, index: Any) -> Outputs:
    logits = None if outputs.logits is None else outputs.logits[index]
    return Outputs(tuple(values[index] for values in outputs.features), logits).detach()


def on_two_ranks(work: Callable[[int], T]) -> list[T]:
    """``work(rank)`` on two ranks that gather from each other: threads of this process, over gloo."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=30))
            with gathering_over(group):
                results[rank] = work(rank)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[rank] for rank in range(2)]
