"""What a sweep does about faults of the machine: it waits for its storage, and tries the runs again.

A run that a full disk or a lost mount ended is *held*: it has no slot, and is handed out again. Meanwhile the
storage is asked whether it answers, by writing, reading and deleting a small file.

- It does not: the sweep pauses. No run is handed out, and the storage is asked again, with growing waits.
  Once it answers, all goes on; if it does not within a stated time, the sweep ends.
- It does: the fault concerns the run alone (its data, its node). The others go on, and it is tried again
  after a wait that grows each time. Once its waits exceed that time, it ends as unfinished.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from ray_kd.config.ending import reason_of
from ray_kd.config.faults import environment_fault
from ray_kd.config.words import clock
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Ledger, Outcome

STORAGE_TIMEOUT = 600.0
"""Seconds that a sweep waits for a storage that does not answer, where nothing else is said."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before something is tried again: at first, then twice as long each time, and at most."""
SILENT_AFTER = 10.0
"""Seconds without an answer after which a storage counts as away: a lost mount may block for ever."""

Result = TypeVar("Result")


def wait_before(tries: int) -> float:
    """Seconds to wait before something is tried again that was tried ``tries`` times."""
    return float(min(FIRST_WAIT * 2 ** min(tries - 1, 30), LONGEST_WAIT))


def try_again(
    action: Callable[[], Result], timeout: float, say: Callable[[str], None], until: float | None = None
) -> Result:
    """Call ``action`` until no fault of the machine prevents it, with growing waits.

    Args:
        timeout: seconds after which the fault is raised.
        say: told each time what failed, and when it is tried again.
        until: give up at this time (of ``time.monotonic``), too.

    Raises:
        EnvironmentFault: it lasts longer.
    """
    tries, spent = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            return action()
        except Exception as error:
            fault = environment_fault(error)
            if fault is None:
                raise
            # An attempt that went well for long is no part of the wait: what ends it is another fault.
            spent += min(time.monotonic() - began, LONGEST_WAIT) if tries else 0.0
            tries += 1
            wait = min(wait_before(tries), timeout - spent)
            if wait <= 0 or (until is not None and time.monotonic() + wait >= until):
                if fault is error:
                    raise
                raise fault from error
            say(f"{fault} Trying again in {clock(wait)}, and giving up after {clock(timeout - spent)}.")
            time.sleep(wait)
            spent += wait


@dataclass
class _Held:
    """A run that a fault ended.

    Attributes:
        due: when it is tried again; None: as soon as it is known whether the storage answers.
    """

    job: Job
    outcome: Outcome
    due: float | None = None


@dataclass
class _Tries:
    count: int = 0
    waited: float = 0.0
    farthest: int = -1
    """The epoch in which it was ended last: one that gets farther may be tried as often as a new one."""


class _Question:
    """Whether the storage answers, asked by a thread, since a lost mount may block it for ever."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.asked = ledger, time.monotonic()
        self.error: Exception | None = None
        self.answered = threading.Event()
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        try:
            self.ledger.test_storage()
        except Exception as error:
            self.error = error
        self.answered.set()


@dataclass
class Pause:
    """Holds the runs that a fault of the machine ended, and pauses the sweep while its storage is away.

    Args:
        ledger: of the sweep; what it could not write is written once the storage answers.
        timeout: seconds that the storage may be away, and that one run's waits may take; 0: never wait.
        say: told when the sweep pauses and when it goes on.

    Attributes:
        lost: why the sweep has to end: the storage did not answer for ``timeout`` seconds.
    """

    ledger: Ledger
    timeout: float = 0.0
    say: Callable[[str], None] = lambda text: None
    lost: str | None = None
    _reason: str | None = None
    """Why the storage may be away; None: it answers."""
    _since: float = 0.0
    _away: bool = False
    """Whether it is known to be away."""
    _tries: int = 0
    _next: float = 0.0
    _question: _Question | None = None
    _held: dict[str, _Held] = field(default_factory=dict)
    _of: dict[str, _Tries] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether no run may be handed out: the storage is away, or has not answered yet."""
        return self._reason is not None

    @property
    def away(self) -> bool:
        """Whether the storage is known to be away."""
        return self._away

    @property
    def holds(self) -> bool:
        """Whether any run is held."""
        return bool(self._held)

    @property
    def notice(self) -> str | None:
        """What the sweep waits for, as a sentence; None: nothing."""
        now = time.monotonic()
        if self._away:
            left = clock(max(0.0, self._since + self.timeout - now))
            again = "asking it" if self._question else f"next try in {clock(self._next - now)}"
            return f"the storage does not answer ({self._reason}): waiting, {again}, giving up in {left}"
        due = [held.due for held in self._held.values() if held.due is not None]
        if not due:
            return None
        reason = next(iter(self._held.values())).outcome.reason
        runs, wait = f"{len(due)} runs are" if len(due) > 1 else "a run is", clock(max(0.0, min(due) - now))
        return f"{runs} tried again in {wait}, after a fault of the machine ({reason})"

    def hold(self, job: Job, outcome: Outcome) -> None:
        """A fault of the machine ended a run: try it again later."""
        tries = self._of.setdefault(job.identity, _Tries())
        if outcome.epochs > tries.farthest:
            self._of[job.identity] = _Tries(farthest=outcome.epochs)
        self._held[job.identity] = _Held(job, outcome)
        self.suspect(str(outcome.reason))

    def suspect(self, reason: str) -> None:
        """Ask whether the storage answers; until it does, no run is handed out."""
        if self.timeout > 0 and self._reason is None:
            self._reason, self._since, self._tries = reason, time.monotonic(), 0
            self._question = _Question(self.ledger)

    def released(self) -> tuple[list[Job], list[tuple[Job, Outcome]]]:
        """Runs to hand out again, and runs to end: they were tried often enough. Called often."""
        if self.ledger.behind is not None:
            self.suspect(self.ledger.behind)
        self._look()
        if self.lost is not None:
            return [], [(held.job, held.outcome) for held in self._take(self._held)]
        if self.closed:
            return [], []
        now = time.monotonic()
        held = self._held.items()
        over = self._take([name for name, one in held if one.due is None and self._spent(one, now)])
        ready = self._take([name for name, one in held if one.due is not None and one.due <= now])
        return [one.job for one in ready], [(one.job, one.outcome) for one in over]

    def _take(self, identities: Iterable[str]) -> list[_Held]:
        return [self._held.pop(identity) for identity in list(identities)]

    def _spent(self, held: _Held, now: float) -> bool:
        """Plan when a run is tried again whose fault the storage has nothing to do with; True: no more."""
        tries = self._of[held.job.identity]
        tries.count += 1
        wait = wait_before(tries.count)
        tries.waited += wait
        held.due = now + wait
        return tries.waited > self.timeout

    def _look(self) -> None:
        """Note whether the storage has answered, and ask again when it is time."""
        if self._reason is None:
            return
        now, asked = time.monotonic(), self._question
        if asked is None and now >= self._next:
            self._question = _Question(self.ledger)
        elif asked is not None and asked.answered.is_set():
            self._question = None
            error = asked.error or self._catch_up()
            if error is None:
                return self._go_on(now)
            self._tries += 1
            self._next = now + wait_before(self._tries)
            self._is_away(reason_of(error).partition(". ")[0].rstrip("."))
        elif asked is not None and now - asked.asked > SILENT_AFTER and not self._away:
            self._is_away(f"no answer for {SILENT_AFTER:.0f} s")
        if now - self._since > self.timeout:
            self.lost = f"the storage did not answer for {clock(self.timeout)}: {self._reason}"
        return None

    def _catch_up(self) -> Exception | None:
        try:
            self.ledger.flush()
        except Exception as error:
            return error
        return None

    def _is_away(self, reason: str) -> None:
        self._reason = reason
        if not self._away:
            self._away = True
            self.say(
                f"the storage does not answer ({reason}). The sweep waits for it, and gives up after "
                f"{clock(self.timeout)}; Ctrl-C ends it at once, and the same command resumes."
            )

    def _go_on(self, now: float) -> None:
        """The storage answers: runs that it failed are handed out at once."""
        if self._away:
            self.say(f"the storage answers again, after {clock(now - self._since)}; the sweep goes on.")
            for held in self._held.values():
                held.due = now
        self._reason, self._away = None, False
