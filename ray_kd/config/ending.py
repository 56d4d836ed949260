"""How a trial ends: one type, and the exit codes that go with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.config.faults import environment_fault
from ray_kd.config.names import printable


class Ending(StrEnum):
    """How a trial ended, as it is written in records, the ledger and tables."""

    FINISHED = "finished"
    FAILED = "failed"
    """By its own fault: a loss became NaN, its parts do not fit, its process died repeatedly."""
    STOPPED = "stopped"
    """Early, by a scheduler."""
    BLOCKED = "blocked"
    """It never began: its teacher failed."""
    UNFINISHED = "unfinished"
    """It was interrupted, or met a fault of the machine; the same command resumes it."""
    NOT_NEEDED = "not needed"
    """A look had decided its strategy, or had ended it, before this seed was trained."""

    @property
    def counts(self) -> bool:
        """Whether a look waits no longer for such a trial; unless it finished, its seed is lost."""
        return self not in (Ending.UNFINISHED, Ending.NOT_NEEDED)

    @property
    def final(self) -> bool:
        """Whether the same command leaves such a trial as it is; it trains or resumes the others."""
        return self in (Ending.FINISHED, Ending.FAILED, Ending.STOPPED)


STATES = (*(ending.value for ending in Ending), "running", "missing")
"""The states of a planned trial: the ways to end, running, or waiting."""
NOT_ENDED = ("unfinished", "running", "missing")
"""The states that the same command still changes."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop; its state is saved, and the same command resumes from it."""


def ending_of(error: BaseException) -> Ending:
    """How a run ends that raised ``error``."""
    unfinished = isinstance(error, KeyboardInterrupt) or environment_fault(error) is not None
    return Ending.UNFINISHED if unfinished else Ending.FAILED


def reason_of(error: BaseException) -> str:
    """Why a run ended that raised ``error``, as its summary keeps it."""
    known = environment_fault(error) or error
    told = isinstance(known, (TrainingFailed, UserError))
    return str(known) if told else printable(f"{type(error).__name__}: {error}")


def exit_code(endings: Iterable[Ending]) -> int:
    """0: all finished; 1: something failed; 3: something is unfinished (run the command again)."""
    found = set(endings)
    if Ending.UNFINISHED in found:
        return 3
    return int(bool(found & {Ending.FAILED, Ending.BLOCKED}))


def noted(entry: Mapping[str, Any] | None) -> Ending | None:
    """How a trial ended by its ledger entry; None: the entry does not say.

    Earlier versions had no ``blocked``: they noted a student whose teacher had failed as failed.
    """
    status = (entry or {}).get("status")
    if status not in tuple(Ending):
        return None
    untaught = str((entry or {}).get("reason") or "").startswith("its teacher (")
    return Ending.BLOCKED if status == Ending.FAILED and untaught else Ending(status)
