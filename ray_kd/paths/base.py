"""The base of all paths: how knowledge flows from a teacher to a student.

A path has two halves. ``target(teacher_outputs)`` returns the smallest tensors of the teacher that the
loss needs. They need no gradient, so they can be stored. ``path(student_outputs, target, batch)`` returns
the loss, or one loss for each stage. Modules that learn (adapters, a fusion) belong to the path: they train
with the student, and are not part of the exported student.

A new path implements ``target`` and ``losses``, or subclasses LogitPath, FeaturePath, PooledPath or
AdaptedPath, which need less. Losses are computed in float32 at least, even under autocast; adapters
follow autocast.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.options import PathOptions
from ray_kd.outputs import Outputs, main_class
from ray_kd.paths import corruption
from ray_kd.paths.gather import all_rows

Trait = Literal["relational", "stateful", "stochastic", "signed"]
_NOTHING: AbstractContextManager[Any] = nullcontext()


class Path(nn.Module):
    """One way for a teacher to teach a student.

    Args:
        student_channels: channels of the student's stages, shallow to deep.
        teacher_channels: channels of the teacher's stages, matched 1:1 with the student's.
        seed: key of the path's random stream (its adapters, its draws).

    Attributes:
        label: the path's name in records.
        strength: factor on the losses, set by ``begin_epoch`` during a warm-up; 1 until it is called.
        recording: if False, a forward does not change the state of a ``stateful`` path, as probes need.
            A forward without gradients never changes it.

    Example:
        >>> from ray_kd.plugin import Path, PathOptions, register_path
        >>> class ExampleOptions(PathOptions):
        ...     pass
        >>> @register_path("example_norms")
        ... class Example(Path):
        ...     Options = ExampleOptions
        ...     def target(self, teacher):
        ...         return {self.label: teacher.logits.detach().norm(dim=1)}
        ...     def losses(self, student, target, batch):
        ...         return {self.label: (student.logits.norm(dim=1) - target[self.label]).pow(2).mean()}
        >>> Example(ExampleOptions(label="norms"), student_channels=(), teacher_channels=()).keys
        ('norms',)
    """

    name: ClassVar[str]
    version: ClassVar[int]
    source: ClassVar[str]
    published_weight: ClassVar[float] = 1.0
    """The static weight that the path's source publishes."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Keys of the batch that the loss reads: label, sample, mask, image, boxes, box_label."""
    reads: ClassVar[tuple[str, ...]] = ("logits",)
    """The student's outputs that the loss of a path without stages reads: logits, features, or entries of
    ``extra``, if the outputs have them."""
    binds: ClassVar[bool] = False
    """Whether ``bind(teacher)`` has to be called before the first loss, stored targets or not."""
    traits: ClassVar[frozenset[Trait]] = frozenset()
    """relational: the loss couples samples, so ranks gather them. stateful: a forward in training changes
    buffers that later losses read (``remembers`` says when). stochastic: the loss draws random numbers.
    signed: it may be negative."""
    zero_at_teacher: ClassVar[bool] = True
    """Whether the loss is 0 if the student's outputs equal the teacher's (without adapters)."""
    degree: ClassVar[float | None] = None
    """d if loss(c student, c teacher) = c^d loss(student, teacher) for all c > 0; None: no such d."""
    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    target_kind: ClassVar[str | None] = None
    """The kind of target; paths of one kind share a stored target. None: a kind of its own."""
    target_options: ClassVar[tuple[str, ...] | None] = None
    """Options besides ``stages`` that change the target; None: all of the path's own options."""
    Options: ClassVar[type[PathOptions]] = PathOptions

    def __init__(
        self,
        options: PathOptions,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options: Any = options
        self.label = options.label or self.name
        self.seed = seed
        self.strength, self.recording = 1.0, True
        self.student_channels, self.teacher_channels = tuple(student_channels), tuple(teacher_channels)
        self.setup()
        if options.stages is not None and not getattr(self, "stages", ()):
            raise UserError(
                f"path '{self.label}': stages: expected none, since it compares no single stages, got "
                f"{options.stages}."
            )

    def setup(self) -> None:
        """Create the path's modules (adapters, a memory) and refuse options that do not fit; called once, at
        the end of construction. A subclass of a path with stages calls ``super().setup()`` first."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the losses that ``forward`` returns."""
        return (self.label,)

    @abstractmethod
    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        """The tensors of the teacher that the loss needs, by name; rows are samples, without gradient."""

    @abstractmethod
    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The loss of each of ``keys``: scalars, means over the batch."""

    def forward(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The loss of each of ``keys`` times ``strength``.

        Args:
            student: the student's outputs, with gradients.
            target: the result of ``target`` for the same samples, live or stored.
            batch: with at least the keys that ``needs`` names.

        Raises:
            UserError: the outputs or the batch lack a tensor that the path needs.
        """
        losses = self.losses(student, target, {} if batch is None else batch)
        if self.strength == 1:
            return losses
        return {key: loss * self.strength for key, loss in losses.items()}

    @classmethod
    def needs_of(cls, task: str) -> tuple[str, ...]:
        """The keys of the batch that the loss reads in a task."""
        return cls.needs

    def stored_as(self, entry: str) -> str:
        """The name of an entry of the target in a store: the same for all paths with the same target.

        Args:
            entry: a key of the result of ``target``; it begins with the path's label.
        """
        common = set(PathOptions.model_fields)
        own = self.options.model_dump(mode="json", exclude=common, exclude_defaults=True)
        if self.target_options is not None:
            own = {name: value for name, value in own.items() if name in self.target_options}
        told = ",".join(f"{name}={value}" for name, value in sorted(own.items()))
        kind = self.target_kind or f"{self.name}.{self.version}"
        return (f"{kind}({told})" if told else kind) + entry.removeprefix(self.label)

    def bind(self, teacher: nn.Module) -> None:
        """Copy frozen modules of the teacher that the loss needs, such as its head."""

    def remembers(self, *values: Tensor) -> bool:
        """Whether this forward of a ``stateful`` path changes its state: in training, with gradients and
        ``recording``, if the values to remember are finite on every rank (waits for the device).

        Args:
            values: from which the loss and the memory are computed; every rank must call this.
        """
        if not (self.training and self.recording and torch.is_grad_enabled()):
            return False
        sound = torch.stack([value.detach().isfinite().all() for value in values]).all()
        return bool(all_rows(sound.view(1).float()).all())

    def begin_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch (0-based), also after a resume.

        Warm-up: the losses of epoch e are scaled by min(1, (e + 1) / ``warmup_epochs``). An
        aggregator that undoes the scale of a loss (adaptive, inverse) undoes its warm-up as well.
        """
        self.strength = min(1.0, (epoch + 1) / max(1, self.options.warmup_epochs))

    def corrupted(
        self, target: Mapping[str, Tensor], batch: Mapping[str, Tensor], step: int
    ) -> Mapping[str, Tensor]:
        """The target, corrupted as ``options.corrupt`` says; the training loop calls it in each step.

        Args:
            target: the result of ``target`` for the batch, live or stored.
            batch: holds sample, and label where samples have one class.
            step: optimizer steps taken so far.
        """
        if self.options.corrupt is None:
            return target
        return corruption.corrupt(self.options.corrupt, target, batch, step, self.seed, self.label)

    def in_batch(self, batch: Mapping[str, Tensor], key: str) -> Tensor:
        """An entry of the batch; a label as a class (N,), of the largest share where views mix samples."""
        if key not in batch:
            raise UserError(f"path '{self.label}' needs batch['{key}'], got {sorted(batch)}.")
        return main_class(batch[key]) if key == "label" else batch[key]


def exact(values: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast on the device of ``values``, since losses subtract nearly equal numbers."""
    kind = values.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else _NOTHING


def full(values: Tensor) -> Tensor:
    """The same values, in float32 if they are in half precision."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def logits_of(outputs: Outputs, label: str) -> Tensor:
    """The logits, or a UserError that says which path misses them."""
    if outputs.logits is None:
        raise UserError(f"path '{label}' needs logits, and the outputs hold none.")
    return outputs.logits


def feature_of(outputs: Outputs, stage: int, label: str, channels: int | None = None) -> Tensor:
    """The feature map of a stage, or a UserError that says which path misses it.

    Args:
        stage: counted from 0.
        channels: the expected number of channels; None: any.
    """
    if stage >= len(outputs.features):
        raise UserError(
            f"path '{label}' needs the feature map of stage {stage}, and the outputs hold "
            f"{len(outputs.features)} stages."
        )
    feature = outputs.features[stage]
    if channels is not None and (feature.dim() != 4 or feature.shape[1] != channels):
        last = feature.shape[-1] == channels and feature.dim() in (3, 4)
        layout = "NLC" if feature.dim() == 3 else "NHWC"
        told = f", whose channels come last: ray_kd.as_map(feature, '{layout}') makes one" if last else ""
        raise UserError(
            f"path '{label}': stage {stage}: expected a feature map (N, C, H, W) of {channels} channels, got "
            f"{tuple(feature.shape)}{told}."
        )
    return feature
