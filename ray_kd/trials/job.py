"""One run in a sweep's trial queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ray_kd.config.plan import Trial
from ray_kd.config.spec import RunSpec
from ray_kd.trials.ledger import Outcome

RETRIES = 3
"""How often a job whose worker process died is resumed from its checkpoint."""


@dataclass
class Job:
    """A run in a sweep's trial queue, which trains at most once: a teacher, the run of trials, or both.

    Attributes:
        trial: the first planned trial that it serves; None: it is a teacher alone.
        needs: identities of the teachers that it loads, a teacher's own teachers too.
        teaches: other jobs load it; it may serve a trial too (self-distillation beside the student alone).
        resumed: it was handed out before, and is tried again.
        value, best: the last validation metric, and the best one so far.
        moves: how often it was started on a node that was not ready.
        waits: a sentence that says what the started job waits for; None: nothing.
    """

    identity: str
    spec: RunSpec
    trial: Trial | None
    needs: tuple[str, ...] = ()
    teaches: bool = False
    state: Literal["waiting", "issued", "running", "held", "done"] = "waiting"
    outcome: Outcome | None = None
    crashes: int = 0
    moves: int = 0
    resumed: bool = False
    epoch: int = 0
    value: float | None = None
    best: float | None = None
    began: float | None = None
    waits: str | None = None

    @property
    def cell(self) -> str:
        """The cell of its trial, or ``teacher``."""
        return self.trial.cell if self.trial is not None else "teacher"

    @property
    def seed(self) -> int:
        """The seed of its trial, which need not be its run's (see ``vary``); of a teacher its own."""
        return self.trial.seed if self.trial is not None else self.spec.seed

    @property
    def phase(self) -> str:
        """Its phase as the ledger names it."""
        return self.trial.phase if self.trial is not None else "teacher"


def needs_of(spec: RunSpec) -> tuple[str, ...]:
    """Identities of the runs that train the teachers that a run loads."""
    names = [name for name in spec.needed_teachers() if spec.teachers[name].weights is None]
    return tuple(dict.fromkeys(spec.teacher_run(name).identity() for name in names))
