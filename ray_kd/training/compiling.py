"""``training.compile``: the parts of a run under ``torch.compile``, each tried before the first step.

A part that cannot be compiled stays as it is written, and the run says which and why. Only training steps run
compiled, on the one shape that batches have; evaluations run as written, so that no number depends on which
shapes a process has seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ray_kd.config.screen import logger
from ray_kd.models.compiled import is_compiled, load_own_state, own_state
from ray_kd.teacher.live import LiveTeacher, Targets
from ray_kd.training.engine import Engine

LOG = logger("ray_kd")


class Compiled:
    """The parts of a run that are compiled.

    Args:
        engine: its student and paths are.
        teachers: so are they, while the run lasts; none with stored targets.

    Attributes:
        told: by part, "compiled", or why it runs as written; empty before the first batch.
    """

    def __init__(self, engine: Engine, teachers: Mapping[str, LiveTeacher]) -> None:
        self.engine, self.teachers = engine, teachers
        self.told: dict[str, str] = {}
        self._undo: list[Callable[[], object]] = []

    def compile(self, images: Tensor, first: Callable[[], tuple[Mapping[str, Tensor], Targets]]) -> None:
        """Compile each part and try it on the first batch; nothing of the run changes by it.

        Args:
            images: of a batch as every step has it.
            first: gives what of it goes through the student at once, with its targets.
        """
        torch.compiler.reset()  # other runs of this process would use up how many shapes PyTorch compiles
        if self.engine.gradients is not None:
            # Compiled backwards free what they were given, and gradients of each loss need it again.
            torch._functorch.config.donated_buffer = False  # type: ignore[attr-defined]
        for name, teacher in self.teachers.items():
            self._try_network(f"teacher '{name}'", teacher.model, partial(teacher.outputs, images))
        step = partial(self._step, *first())
        self._try_network("student", self.engine.student, step)
        for path in self.engine.paths:
            # Its losses, not its forward, which reads a strength that changes with the epochs of a warm-up.
            vars(path)["losses"] = torch.compile(path.losses, dynamic=False)
            self._try(f"path '{path.label}'", step, partial(vars(path).pop, "losses"))

    def _try_network(self, name: str, network: nn.Module, run: Callable[[], object]) -> None:
        if is_compiled(network):
            self.told[name] = "compiled before"
            return
        network.compile(dynamic=False)
        self._try(name, run, partial(setattr, network, "_compiled_call_impl", None))

    def _try(self, name: str, run: Callable[[], object], undo: Callable[[], object]) -> None:
        try:
            run()
        except Exception as error:
            undo()
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            self.told[name] = f"as written: {type(error).__name__}: {reason}"
            LOG.warning("training.compile: %s cannot be compiled and runs as it is written: %s", name, reason)
        else:
            self._undo.append(undo)
            self.told[name] = "compiled"

    def _step(self, batch: Mapping[str, Tensor], targets: Targets) -> None:
        """Forward and backward of all losses; weights, statistics and generators are then put back."""
        engine = self.engine
        kept = {name: value.clone() for name, value in own_state(engine.module).items()}
        cuda = engine.device.type == "cuda"
        try:
            with torch.random.fork_rng([engine.device.index or 0] if cuda else []), engine.autocast():
                task_loss, losses, _ = engine.module(batch, targets)
                total = torch.stack([task_loss, *losses.values()]).sum()
                for again in (True, False) if engine.gradients is not None else (False,):
                    torch.autograd.grad(total, engine.trained, retain_graph=again, allow_unused=True)
        finally:
            load_own_state(engine.module, kept)

    def release(self) -> None:
        """Leave every part as it was: other runs use the teachers, and a student may be the user's object."""
        while self._undo:
            self._undo.pop()()


def as_written(compiled: Compiled | None) -> AbstractContextManager[Any]:
    """Within the block nothing runs compiled, if the run compiles its parts."""
    return nullcontext() if compiled is None else torch.compiler.set_stance("force_eager")
