"""One run in a sweep's trial queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ray_kd.config.plan import Trial
from ray_kd.config.spec import RunSpec
from ray_kd.trials.ledger import Outcome


@dataclass
class Job:
    """One run that trains at most once: a teacher, or what one or several planned trials need.

    Attributes:
        trial: the first planned trial it serves; None: a teacher.
        needs: identities of the teachers it loads.
        epoch: the last epoch reported.
        value, best: the last validation metric, and the best one so far.
        waits: what it waits for where it runs, in a sentence.
    """

    identity: str
    spec: RunSpec
    trial: Trial | None
    needs: tuple[str, ...] = ()
    state: Literal["waiting", "issued", "running", "done"] = "waiting"
    outcome: Outcome | None = None
    crashes: int = 0
    epoch: int = 0
    value: float | None = None
    best: float | None = None
    began: float | None = None
    waits: str | None = None

    @property
    def cell(self) -> str:
        """The cell it counts for."""
        return self.trial.cell if self.trial is not None else "teacher"

    @property
    def phase(self) -> str:
        """Its phase in the ledger."""
        return self.trial.phase if self.trial is not None else "teacher"
