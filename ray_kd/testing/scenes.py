"""What a path is tested on: outputs of a student and a teacher, a batch, and two ranks in one process.

One scene for each task, in ``SCENES``: a path is tested on those of all tasks that it declares.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_kd.models.detection.distribution import DistributionHead
from ray_kd.outputs import IGNORE, Outputs
from ray_kd.paths.gather import gathering_over

T = TypeVar("T")


class Scene:
    """Random outputs of a student and a teacher for eight samples, keyed by a seed: classification.

    Four stages; widths differ, so that adapters are needed, and lie on both sides of the number of
    positions. The teacher's logits are those of its head. Five classes, four of them in the batch. Another
    task's scene overrides ``head``, ``predict``, ``student_logits`` and ``labels``, and ``change`` where it
    has more tensors.

    Args:
        scale: factor on all features and logits.
        teacher_grad: the teacher's outputs ask for gradients, to see that they get none.
    """

    student_channels: tuple[int, ...] = (5, 6, 7, 8)
    teacher_channels: tuple[int, ...] = (6, 10, 6, 12)
    sizes: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (4, 4), (2, 2), (2, 2))
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
            model.head = self.head()
        self.teacher_model = model.to(device, dtype)

        def maps(channels: tuple[int, ...]) -> list[Tensor]:
            shapes = [(self.count, c, *size) for c, size in zip(channels, self.sizes, strict=True)]
            drawn = [torch.randn(shape, generator=draw, dtype=torch.float64).relu() for shape in shapes]
            return [(values * scale).to(device, dtype) for values in drawn]

        features, teacher = maps(self.student_channels), maps(self.teacher_channels)
        logits = self.student_logits(draw) * 2 * scale
        with torch.no_grad():
            teacher_logits = 2 * self.predict(teacher[-1] / scale) * scale
        extra = {name: (v * 2 * scale).to(device, dtype) for name, v in self.student_extra(seed).items()}
        self.student = leaves(Outputs(tuple(features), logits.to(device, dtype), extra), True)
        self.teacher = leaves(Outputs(tuple(teacher), teacher_logits), teacher_grad)
        samples = torch.tensor([11, 3, 40, 7, 23, 5, 19, 30])
        self.batch = {
            name: values.to(device) for name, values in {"sample": samples, **self.labels(draw)}.items()
        }

    def head(self) -> nn.Module:
        """What makes the teacher's logits of its last stage."""
        return nn.Linear(self.teacher_channels[-1], self.classes)

    def predict(self, feature: Tensor) -> Tensor:
        """The teacher's logits for its last stage."""
        found: Tensor = self.teacher_model.head(feature.mean((2, 3)))  # type: ignore[operator]
        return found

    def student_logits(self, draw: torch.Generator) -> Tensor:
        """Random logits in float64."""
        return torch.randn(self.count, self.classes, generator=draw, dtype=torch.float64)

    def student_extra(self, seed: int) -> dict[str, Tensor]:
        """Random entries of the student's ``extra`` in float64: here the head of a distillation token."""
        draw = torch.Generator().manual_seed(seed + 500)
        return {"distillation": torch.randn(self.count, self.classes, generator=draw, dtype=torch.float64)}

    def labels(self, draw: torch.Generator) -> dict[str, Tensor]:
        """What the batch holds beside the samples' ids."""
        return {"label": torch.tensor([0, 1, 2, 0, 1, 2, 4, 4])}

    def change(self, outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
        """The same outputs with every tensor changed."""
        logits = None if outputs.logits is None else change(outputs.logits)
        extra = {name: change(values) for name, values in outputs.extra.items()}
        features = tuple(change(values) for values in outputs.features)
        return replace(outputs, features=features, logits=logits, extra=extra)

    def rows(self, index: Any) -> Scene:
        """The same scene with some of its samples, or in another order."""
        scene = self._with(lambda outputs: self.change(outputs, lambda values: values[index]))
        scene.batch = {key: values[index] for key, values in self.batch.items()}
        return scene

    def as_teacher(self) -> Scene:
        """The same scene with a student that says what the teacher says."""
        scene = self._with(lambda outputs: outputs)
        with torch.no_grad():
            scene.teacher = replace(self.teacher, logits=self.predict(self.teacher.features[-1]))
            extra = {name: self.predict(self.teacher.features[-1]) for name in self.student_extra(0)}
        scene.student = leaves(replace(scene.teacher, extra={**scene.teacher.extra, **extra}), True)
        scene.student_channels = self.teacher_channels
        return scene

    def in_half(self) -> Scene:
        """The same scene with a student in bfloat16, as autocast leaves it."""
        scene = self._with(lambda outputs: outputs)
        scene.student = leaves(self.change(self.student, lambda values: values.bfloat16()), True)
        return scene

    def ignored(self) -> Scene | None:
        """The same scene with other student's and teacher's answers where ``batch`` says that nobody knows
        better; None: the task knows no such place."""
        return None

    def _with(self, change: Callable[[Outputs], Outputs]) -> Scene:
        """The same scene with both sides changed, cut off from what made them."""
        scene = copy.copy(self)
        scene.student, scene.teacher = leaves(change(self.student), True), change(self.teacher).detach()
        return scene


class SegmentationScene(Scene):
    """The scene of segmentation: maps that are no squares, logits (N, K, 3, 4), masks (N, 12, 16).

    A fifth of the cells of 4 x 4 pixels is ignored, and so are one image and the odd pixel elsewhere.
    """

    sizes: ClassVar[tuple[tuple[int, int], ...]] = ((6, 8), (6, 8), (3, 4), (3, 4))

    def head(self) -> nn.Module:
        return nn.Conv2d(self.teacher_channels[-1], self.classes, 1)

    def predict(self, feature: Tensor) -> Tensor:
        found: Tensor = self.teacher_model.head(feature)  # type: ignore[operator]
        return found

    def student_logits(self, draw: torch.Generator) -> Tensor:
        return torch.randn(self.count, self.classes, *self.sizes[-1], generator=draw, dtype=torch.float64)

    def student_extra(self, seed: int) -> dict[str, Tensor]:
        return {}

    def labels(self, draw: torch.Generator) -> dict[str, Tensor]:
        height, width = self.sizes[-1]
        cells = torch.randint(self.classes, (self.count, height, width), generator=draw)
        cells[torch.rand(cells.shape, generator=draw) < 0.2] = IGNORE
        cells[2] = IGNORE
        mask = cells.repeat_interleave(4, 1).repeat_interleave(4, 2)
        mask[:, 0, 0] = IGNORE
        return {"mask": mask}

    def ignored(self) -> Scene | None:
        nobody = self.batch["mask"][:, 2::4, 2::4].unsqueeze(1) == IGNORE

        def elsewhere(outputs: Outputs) -> Outputs:
            assert outputs.logits is not None
            logits = torch.where(nobody, outputs.logits.flip(0) * 3 - 1, outputs.logits)
            return replace(outputs, logits=logits)

        return self._with(elsewhere)


class DetectionScene(Scene):
    """The scene of detection: a pyramid of four levels for images of 48 x 64, answers of a GFL head with
    nine bins, the teacher's three proposals for each image, and a second stage that reads them.

    Two images without objects, one with a crowd beside an object; objects of all sizes, on all
    levels and, with two ranks, more of them on one.
    """

    sizes: ClassVar[tuple[tuple[int, int], ...]] = ((12, 16), (6, 8), (3, 4), (2, 2))
    places = 256

    def __init__(self, seed: int = 0, *args: Any, **kwargs: Any) -> None:
        super().__init__(seed, *args, **kwargs)
        draw = torch.Generator().manual_seed(seed + 1000)
        for side, channels in (("student", self.student_channels), ("teacher", self.teacher_channels)):
            shape = (self.count, self.places, 4, 9)
            bins = 2 * torch.randn(shape, generator=draw, dtype=torch.float64).to(self.device, self.dtype)
            low, size = torch.rand(2, self.count, 3, 2, generator=draw, dtype=torch.float64)
            low = torch.tensor([40.0, 24.0]) * low
            proposals = torch.cat([low, low + 4 + 20 * size], -1).to(self.device, self.dtype)
            stage = torch.randn(sum(channels), (self.classes + 1) * 5, generator=draw, dtype=torch.float64)
            head = TwoStageHead(self.sizes, stage.to(self.device, self.dtype))
            outputs = replace(getattr(self, side), extra={"bins": bins, "proposals": proposals}, head=head)
            setattr(self, side, leaves(outputs, outputs.features[0].requires_grad))

    def head(self) -> nn.Module:
        return nn.Linear(self.teacher_channels[-1], self.places * self.classes)

    def predict(self, feature: Tensor) -> Tensor:
        return super().predict(feature).view(-1, self.places, self.classes)

    def student_logits(self, draw: torch.Generator) -> Tensor:
        shape = (self.count, self.places, self.classes)
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    def labels(self, draw: torch.Generator) -> dict[str, Tensor]:
        boxes = torch.zeros(self.count, 3, 4)
        label = torch.full((self.count, 3), -1)
        crowd = torch.zeros(self.count, 3, dtype=torch.bool)
        for sample, place, kind, box in (
            (0, 0, 1, (3, 5, 20, 19)),
            (0, 1, 4, (30, 10, 42, 25)),
            (0, 2, 1, (1, 2, 62, 47)),
            (1, 0, 0, (8, 8, 13, 14)),
            (2, 1, 3, (1, 0, 63, 48)),
            (4, 0, 2, (6, 6, 30, 30)),
            (4, 1, 2, (12, 10, 34, 40)),
            (5, 0, 2, (0, 0, 25, 44)),
            (6, 0, 0, (40, 20, 63, 47)),
            (6, 2, 1, (2, 30, 12, 44)),
        ):
            boxes[sample, place], label[sample, place] = torch.tensor(box, dtype=torch.float32), kind
        crowd[5, 0] = True
        boxes[5, 1], label[5, 1] = torch.tensor([30.0, 5, 50, 28]), 3
        images = torch.rand(self.count, 3, 48, 64, generator=draw)
        return {"image": images, "boxes": boxes, "box_label": label, "crowd": crowd}

    def ignored(self) -> Scene | None:
        """Other answers at all places that are not trained to find an object."""
        head = self.student.head
        assert head is not None
        found = head.positives(self.student, self.batch)

        def elsewhere(outputs: Outputs) -> Outputs:
            assert outputs.logits is not None
            bins = outputs.extra["bins"]
            logits = torch.where(found[..., None], outputs.logits, outputs.logits.flip(0) * 3 - 1)
            bins = torch.where(found[..., None, None], bins, bins.flip(0) * 3 - 1)
            return replace(outputs, logits=logits, extra={**outputs.extra, "bins": bins})

        return self._with(elsewhere)


class TwoStageHead(DistributionHead):
    """A GFL head with a second stage: a linear map (C, (K + 1) * 5) of what all levels show in a proposal."""

    def __init__(self, sizes: tuple[tuple[int, int], ...], stage: Tensor) -> None:
        selection: dict[str, Any] = {"least_score": 0.05, "overlap": 0.6, "most": 100}
        super().__init__(sizes, (4, 8, 16, 32), stage.device, reach=2.0, radius=1.5, **selection)
        self.stage = stage

    def roi(self, outputs: Outputs, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (N, n, K + 1), the background first, and deltas (N, n, K + 1, 4)."""
        from torchvision.ops import roi_align

        wide = torch.promote_types(outputs.features[0].dtype, torch.float32)
        boxes = list(proposals.to(wide))
        seen = [
            roi_align(level.to(wide), boxes, 2, 1 / stride).mean((2, 3))
            for level, stride in zip(outputs.features, (4, 8, 16, 32), strict=True)
        ]
        predicted = torch.cat(seen, 1) @ self.stage.to(wide)
        predicted = predicted.view(*proposals.shape[:2], -1, 5)
        return predicted[..., 0], predicted[..., 1:]


SCENES: dict[str, type[Scene]] = {
    "classification": Scene,
    "segmentation": SegmentationScene,
    "detection": DetectionScene,
}
"""The scene of each task."""


def tensors(outputs: Outputs) -> list[Tensor]:
    """All tensors of outputs."""
    logits = [] if outputs.logits is None else [outputs.logits]
    return [*outputs.features, *logits, *outputs.extra.values()]


def leaves(outputs: Outputs, wants_grad: bool) -> Outputs:
    """The same values, cut off from what made them."""
    found = outputs.detach()
    for leaf in tensors(found):
        leaf.requires_grad_(wants_grad)
    return found


def on_two_ranks(work: Callable[[int], T]) -> list[T]:
    """``work(rank)`` on two ranks that gather from each other: threads of this process, over gloo."""
    groups = _two_groups()

    def run(rank: int) -> T:
        with gathering_over(groups[rank]):
            return work(rank)

    try:
        return _in_two_threads(run)
    except BaseException:
        _two_groups.cache_clear()  # one rank may still wait for the other
        raise


@lru_cache(maxsize=1)
def _two_groups() -> list[Any]:
    """The two ranks, connected once for all tests of a process."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    return _in_two_threads(lambda rank: dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=60)))


def _in_two_threads(work: Callable[[int], T]) -> list[T]:
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
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
