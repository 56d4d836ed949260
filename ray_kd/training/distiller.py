"""Distillation in a loop of your own: every hook of paths and aggregators in one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ray_kd.config.errors import UserError, unknown
from ray_kd.config.registry import AGGREGATORS
from ray_kd.teacher import Teachers
from ray_kd.teacher.normalise import Statistics
from ray_kd.training.assemble import (
    as_network,
    join_ranks,
    live_teachers,
    needs_of,
    on_device,
    parsed,
    paths_between,
    require_known,
    require_numbers,
    task_loss_of,
)
from ray_kd.training.build import aggregator_of, step_key
from ray_kd.training.engine import Engine, TaskLoss
from ray_kd.training.epoch_summary import CHECK_EVERY, epoch_means, require_finite
from ray_kd.training.open_step import OpenStep, Taken
from ray_kd.training.preflight import ImageShape, require_gradients
from ray_kd.training.step import create_optimizers

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
Taps = Sequence[Any] | Mapping[str, Sequence[Any]]


class Distiller:
    """Distils a teacher into a student, in a training loop of your own.

    It calls every hook that a path or an aggregator has, as ``ray_kd.distill`` does; what the loop leaves out
    (an epoch's end, a step, an optimizer's group) is an error.

    Args:
        student: any module that takes images (N, C, H, W) and returns logits, a mapping with ``logits`` or
            ``out``, or ``ray_kd.Outputs``. It stays your object, and its ``state_dict`` its own.
        teacher: the same, trained; or several by name. It is frozen and kept in evaluation mode. None: the
            student learns from labels alone.
        paths: each by name or as ``{"name": ..., option: value}``; ``ray-kd list paths`` names them.
        aggregation: likewise, one of ``ray-kd list aggregators``.
        steps: optimizer steps of the whole training, against which every epoch is checked; None: not known.
        task: whose loss on labels is minimised: classification, segmentation or detection.
        task_loss: a function of (``Outputs``, batch) that takes its place; a scalar, the mean over samples.
        task_weight: factor on the task loss.
        taps: modules whose outputs are the feature maps, by path in the network, shallow to deep, or as
            ``{"module": "blocks.3", "prefix": 1}`` where a layout has to be said (docs/models.md): one list
            for both networks, or ``{"student": [...], "teacher": [...]}``. Networks that return feature
            maps in ``Outputs`` and count their channels in ``stage_channels`` need none.
        image_shape: channels, height and width of the images; needed with ``taps``.
        normalise: ``{"student": (mean, std), "teacher": (mean, std)}`` where the teacher was trained on
            images that are normalised otherwise than those in the batches, which are the student's.
        precision: of forward passes: auto (half precision on a GPU), float32, bfloat16 or float16. Autocast
            and ``GradScaler`` are applied; the teacher answers in float32.
        clip: the largest norm of the student's gradient; None: no clipping.
        sync_batchnorm: whether several processes normalise over the global batch.
        seed: of all that is drawn: adapters, dropout, paths, aggregators.
        device: where to train; default: where the student is.

    Where a ``torch.distributed`` process group exists, its ranks train together: weights are rank 0's,
    losses are means over ranks, gradients are averaged (by ``DistributedDataParallel``, or directly where
    an aggregator looks at gradients).

    Attributes:
        epoch: how many epochs are over.
        last_epoch: the last one's mean ``task_loss``, and of each path the mean ``loss`` and ``weight`` and
            what else its aggregator tells; None before the first is over.
        paths, aggregator: as they are trained.

    Raises:
        UserError: networks, paths and aggregator do not fit together; the message says which.

    Example:
        >>> import torch, ray_kd
        >>> _ = torch.manual_seed(0)
        >>> student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> loader = [(torch.randn(8, 1, 8, 8), torch.randint(10, (8,))) for _ in range(3)]
        >>> distiller = ray_kd.Distiller(student, teacher, paths=["soft_target"], aggregation="dwa", steps=6)
        >>> optimizer = distiller.optimizer(torch.optim.SGD, lr=0.05, momentum=0.9)
        >>> for epoch in distiller.epochs(2):
        ...     for image, label in loader:
        ...         with distiller.step(optimizer) as step:
        ...             logits = step({"image": image, "label": label})
        >>> step.weights
        {'soft_target': 1.0}
    """

    epoch = 0
    last_epoch: dict[str, Any] | None = None
    _means: dict[str, float] | None = None
    _begun = 0
    _loop: object | None = None
    _open: OpenStep | None = None
    _updating = False

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Mapping[str, nn.Module] | None = None,
        *,
        steps: int | None,
        paths: Sequence[Any] = (),
        aggregation: Any = "fixed",
        task: Any = "classification",
        task_loss: TaskLoss | None = None,
        task_weight: float = 1.0,
        taps: Taps = (),
        image_shape: ImageShape | None = None,
        normalise: Mapping[str, Statistics] | None = None,
        precision: str = "auto",
        clip: float | None = None,
        sync_batchnorm: bool = True,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        require_numbers(steps, clip, task_weight)
        several = dist.is_available() and dist.is_initialized()
        world, self._rank = (dist.get_world_size(), dist.get_rank()) if several else (1, 0)
        taps = taps if isinstance(taps, Mapping) else {"student": taps, "teacher": taps}
        own = as_network(student, taps.get("student", ()), image_shape, "student")
        place = next((parameter.device for parameter in own.parameters()), "cpu")
        self.device = torch.device(place if device is None else device)
        teachers = live_teachers(teacher, own, taps, image_shape, normalise, self.device)
        name, loss = task_loss_of(task, task_loss)
        fits = name if task_loss is None else None
        members, teacher_of = paths_between(paths, own, teachers, fits, seed)
        self.aggregator = aggregator_of(parsed(AGGREGATORS, aggregation, "aggregation"), members, seed)
        self.paths = nn.ModuleList(members)
        if world > 1:
            join_ranks(
                [own, self.paths], [live.model for live in teachers.values()], self.device, sync_batchnorm
            )
        self.engine = Engine(
            own.to(self.device),
            self.paths.to(self.device),
            self.aggregator.to(self.device),
            loss,
            device=self.device,
            world=world,
            precision=precision,
            task_weight=task_weight,
            clip=clip,
        )
        self._targets = Teachers(teachers, members, teacher_of)
        self._student, self._frozen = student, [live.model for live in teachers.values()]
        self._needs = needs_of(fits, members, self.aggregator)
        self.steps, self._per_epoch, self._seed = steps, steps, seed

    @property
    def steps_in_epoch(self) -> int:
        """Steps taken so far in the epoch that is under way: as many batches to skip after a resume."""
        return self.engine.taken - self._begun

    def optimizer(
        self, make: Any, groups: Sequence[Mapping[str, Any]] = (), **settings: Any
    ) -> torch.optim.Optimizer:
        """The optimizer of all that trains: student, adapters of paths, what the aggregator learns.

        It is one of ``torch.optim``, so learning-rate schedulers take it. ``distiller.step`` steps it.

        Args:
            make: its class. An aggregator that is a form of SGD (dot) takes the place of ``torch.optim.SGD``.
            groups: parameters of the student with settings of their own, as ``torch.optim`` has them; what
                is in none of them has ``settings``.
            **settings: ``lr`` and so on.

        Raises:
            UserError: there is one already; the aggregator is a form of SGD and ``make`` is not; a group
                holds what does not train here.
        """
        if self.engine.optimizers:
            raise UserError("distiller.optimizer: it was made already; a training has one.")
        if not callable(make):
            got = f"expected a class (torch.optim.SGD), got an object, {type(make).__name__}"
            raise UserError(
                f"distiller.optimizer: {got}: the Distiller makes the optimizer of all that trains."
            )
        made = [{**group, "params": list(group["params"])} for group in groups]
        grouped = {parameter for group in made for parameter in group["params"]}
        if not grouped <= set(self.engine.trained):
            raise UserError("distiller.optimizer: groups: a parameter is none of the student's that train.")
        rest = [parameter for parameter in self.engine.trained if parameter not in grouped]
        expected = f"expected torch.optim.SGD, got {getattr(make, '__name__', make)}."
        all_groups = [{"params": rest}, *made] if rest else made
        optimizers = create_optimizers(make, all_groups, self.aggregator, expected, **settings)
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(self._require_updating)
        self.engine.optimizers = optimizers
        return optimizers[0]

    def _require_updating(self, *_: Any) -> None:
        if not self._updating:
            raise UserError(
                "optimizer.step(): distiller.step takes it when its block ends; leave the call out."
            )

    def epochs(self, count: int) -> Iterator[int]:
        """The epochs from here to ``count``, as ``range`` counts them; one ends when the next is asked for.

        After ``load_state_dict`` it goes on with the epoch that was left: skip ``steps_in_epoch`` batches.

        Raises:
            UserError: ``steps`` is no multiple of ``count``; an epoch ends with too few steps or none.
            TrainingFailed: a loss, a weight or a gradient's norm became NaN or infinite.
        """
        if count < 1 or (self.steps or 0) % count:
            raise UserError(
                f"distiller.epochs: expected epochs of equally many steps, got {count} epochs of "
                f"{self.steps} steps."
            )
        self._per_epoch = None if self.steps is None else self.steps // count
        return self._epochs(count)

    def _epochs(self, count: int) -> Iterator[int]:
        self._loop = loop = object()
        if self.steps_in_epoch and self.steps_in_epoch == self._per_epoch:
            self._end_epoch()  # a state of its last step was loaded
        try:
            while self.epoch < count:
                require_known(self._student, self.engine.trained)
                self.engine.begin_epoch(self.epoch, self._means, resumed=self.steps_in_epoch > 0)
                yield self.epoch
                if self._loop is not loop or self._open is not None:
                    raise UserError("distiller.epochs: another loop, or a step, is under way.")
                self._end_epoch()
        finally:
            if self._loop is loop:
                self._loop = None

    def _end_epoch(self) -> None:
        taken = self.steps_in_epoch
        if taken == 0 or (self._per_epoch is not None and taken != self._per_epoch):
            wanted = "at least 1 step" if self._per_epoch is None else f"{self._per_epoch} steps"
            raise UserError(f"epoch {self.epoch + 1} ended after {taken} steps, expected {wanted}.")
        require_finite(self.engine, self.epoch)
        self.epoch += 1
        means, rows = epoch_means(self.engine, self.epoch, taken)
        self._means = {row["path"]: row["loss"] for row in rows}
        self.last_epoch = {"epoch": self.epoch, "task_loss": means[0], "paths": rows}
        self._begun = self.engine.taken

    def step(self, optimizer: Any) -> OpenStep:
        """One optimizer step: ``with distiller.step(optimizer) as step: step(batch)``.

        Leaving the block updates student, adapters and aggregator. Several calls in it are one step on all
        of their samples (aggregators that look at gradients take one call). Where the block raises, the step
        is not taken. Within it PyTorch's generators are keyed by (seed, step, rank) and put back after.

        Args:
            optimizer: what ``distiller.optimizer`` made, or a wrapper with it as ``.optimizer``.
        """
        return OpenStep(self, optimizer)

    def _begin_step(self, step: OpenStep, optimizer: Any) -> int:
        if self._open is not None:
            raise UserError("distiller.step: a step is under way; leave its block before the next one.")
        if self._loop is None:
            raise UserError(
                "distiller.step: no epoch is under way: write 'for epoch in distiller.epochs(n):' around the "
                "steps; warm-ups of paths and means of losses are by epoch."
            )
        made = self.engine.optimizers[:1]
        if not made or all(made[0] is not one for one in (optimizer, getattr(optimizer, "optimizer", None))):
            raise UserError(
                "distiller.step: expected what distiller.optimizer(torch.optim.SGD, lr=...) made, with all "
                f"adapters and what the aggregator learns, got another {type(optimizer).__name__}."
            )
        if self._per_epoch is not None and self.steps_in_epoch >= self._per_epoch:
            raise UserError(
                f"distiller.step: epoch {self.epoch + 1} has its {self._per_epoch} steps already."
            )
        if not self._student.training:
            raise UserError("distiller.step: the student is in evaluation mode; call student.train() first.")
        for model in self._frozen:
            if model.training or any(child.training for child in model.children()):
                model.eval()
        self.engine.begin()
        self._open = step
        return step_key(self._seed, self.engine.taken, self._rank)

    def _end_step(self, done: bool) -> None:
        self._open = None
        if not done:
            self.engine.begin()

    def _add(self, batch: Mapping[str, Any]) -> Tensor | None:
        placed = on_device(batch, self._needs, self.device)
        return self.engine.add(placed, self._targets.targets(placed))

    def _update(self, optimizer: Any) -> Taken:
        engine = self.engine
        if not engine.taken:
            for path in engine.paths:
                require_gradients(path, engine.seen[0].losses, engine.student)
        made = engine.optimizers[0]
        self._updating, engine.optimizers[0] = True, optimizer
        try:
            update = engine.finish()
        finally:
            self._updating, engine.optimizers[0] = False, made
        if engine.taken % CHECK_EVERY == 0:
            require_finite(engine, self.epoch)
        return Taken(update, engine.figures, engine.names)

    def state_dict(self) -> dict[str, Any]:
        """All that a training needs to go on exactly: student, adapters, optimizer, aggregator, epoch.

        A learning rate's scheduler keeps its own.
        """
        if self._open is not None:
            raise UserError("distiller.state_dict: a step is under way; leave its block first.")
        names = ("epoch", "last_epoch", "_means", "_begun")
        own = {name.lstrip("_"): getattr(self, name) for name in names}
        return {**self.engine.state(), **own, "before": self.engine.before, "made": self._made()}

    def _made(self) -> dict[str, Any]:
        optimizers = [type(optimizer).__name__ for optimizer in self.engine.optimizers]
        return {"losses": self.engine.names, "aggregator": self.aggregator.name, "optimizers": optimizers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``, in a Distiller made in the same way.

        Raises:
            UserError: the optimizer is not made yet; paths, aggregator or optimizer are others.
        """
        if not self.engine.optimizers:
            raise UserError("distiller.load_state_dict: make the optimizer first, with distiller.optimizer.")
        for what, now in self._made().items():
            if state["made"][what] != now:
                raise UserError(
                    "distiller.load_state_dict: expected the state of a Distiller made in the same way; "
                    f"{what}: expected {now}, got {state['made'][what]}."
                )
        self.engine.load_state(state)
        self.engine.before = state["before"]
        self.epoch, self.last_epoch = state["epoch"], state["last_epoch"]
        self._means, self._begun = state["means"], state["begun"]
