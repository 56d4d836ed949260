"""How a trial ends: one type, and the exit codes that go with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.config.faults import environment_fault


class Ending(StrEnum):
    """How a trial ended, as records, the ledger and tables write it."""

    FINISHED = "finished"
    FAILED = "failed"
    """By its own doing: a loss became NaN, its parts do not fit, its process died again and again."""
    STOPPED = "stopped"
    """Early, by a scheduler."""
    BLOCKED = "blocked"
    """It never began: its teacher failed."""
    UNFINISHED = "unfinished"
    """It was interrupted, or the machine failed it; the same command goes on with it."""

    @property
    def final(self) -> bool:
        """Whether a trial that ended so is left alone when the same command is run again."""
        return self in (Ending.FINISHED, Ending.FAILED, Ending.STOPPED)


STATES = (*(ending.value for ending in Ending), "running", "missing")
"""What a planned trial may be: ended in one of these ways, at work, or not begun."""
NOT_ENDED = ("unfinished", "running", "missing")
"""Those of them that the same command still changes."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop; its state is saved, and the same command goes on from it."""


def ending_of(error: BaseException) -> Ending:
    """How a run ended that met an error."""
    unfinished = isinstance(error, KeyboardInterrupt) or environment_fault(error) is not None
    return Ending.UNFINISHED if unfinished else Ending.FAILED


def reason_of(error: BaseException) -> str:
    """Why a run ended that met an error, as its record keeps it."""
    known = environment_fault(error) or error
    return (
        str(known) if isinstance(known, (TrainingFailed, UserError)) else f"{type(error).__name__}: {error}"
    )


def exit_code(endings: Iterable[Ending]) -> int:
    """0: all ended well; 1: something failed; 3: something is unfinished (run again first)."""
    found = set(endings)
    if Ending.UNFINISHED in found:
        return 3
    return int(bool(found & {Ending.FAILED, Ending.BLOCKED}))


def noted(entry: Mapping[str, Any] | None) -> Ending | None:
    """How a ledger's entry says that a trial ended; None: it does not say.

    Before there was ``blocked``, a student whose teacher had failed was noted as failed.
    """
    status = (entry or {}).get("status")
    if status not in tuple(Ending):
        return None
    untaught = str((entry or {}).get("reason") or "").startswith("its teacher (")
    return Ending.BLOCKED if status == Ending.FAILED and untaught else Ending(status)
