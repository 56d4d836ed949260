"""What a sweep shows while it runs: a live panel on a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ray_kd.config.ending import Ending
from ray_kd.config.names import one_line
from ray_kd.config.screen import Harmless, show
from ray_kd.config.words import clock
from ray_kd.trials.job import Job
from ray_kd.trials.trial_queue import TrialQueue

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a sweep at one moment; trials are counted by identity, teachers separately."""

    total: int
    endings: Counter[Ending]
    running: tuple[str, ...]
    teachers: tuple[str, ...]
    waits: tuple[str, ...]
    """What running jobs wait for that have a slot but cannot begin."""
    best: str | None
    left: float | None
    """Estimated seconds that are left; None while nothing has been measured."""
    looks: tuple[str, ...] = ()
    """What the looks have decided, a line for each family of strategies that has several looks."""

    @property
    def ended(self) -> int:
        """Trials that ended in any way; unfinished trials have not ended, and some need not be trained."""
        return sum(count for ending, count in self.endings.items() if ending.counts)

    @property
    def needed(self) -> int:
        """Trials, without those that looks have made needless."""
        return self.total - self.endings[Ending.NOT_NEEDED]

    @property
    def waiting(self) -> int:
        """Trials that have not begun."""
        return self.total - self.endings.total() - len(self.running)

    def counts(self) -> str:
        """``12 of 50 trials done, 2 running, ...``"""
        text = (
            f"{self.ended} of {self.needed} trials done, {len(self.running)} running, {self.waiting} waiting"
        )
        text += f", {self.endings[Ending.FAILED]} failed"
        rest = {
            Ending.STOPPED: "stopped early",
            Ending.BLOCKED: "blocked",
            Ending.UNFINISHED: "unfinished",
            Ending.NOT_NEEDED: "not needed",
        }
        more = (f", {self.endings[ending]} {word}" for ending, word in rest.items() if self.endings[ending])
        return text + "".join(more)


def snapshot(queue: TrialQueue) -> Snapshot:
    """The state of ``queue`` now; it costs the same whatever the number of its trials."""
    tally = queue.tally
    later = sum(entry.count for entry in queue.plan.later)
    running = [*tally.running.values(), *tally.teachers.values()]
    return Snapshot(
        total=tally.trials + later,
        endings=Counter(tally.endings),
        running=tuple(_doing(job) for job in tally.running.values()),
        teachers=tuple(_doing(job) for job in tally.teachers.values()),
        waits=tuple(job.waits for job in running if job.waits),
        best=_best(queue),
        left=tally.seconds_left(later, queue.slots),
        looks=tuple(queue.looks.verdicts.lines()),
    )


def _doing(job: Job) -> str:
    seed = f", seed {job.trial.seed}" if job.trial is not None else ""
    return f"{one_line(job.cell)}{seed}: epoch {job.epoch} of {job.spec.training.epochs}"


def _best(queue: TrialQueue) -> str | None:
    """The cell with the best mean validation metric over its finished trials; else the best running trial.

    None where there are several tasks, whose metrics cannot be compared, or no trial has been evaluated.
    """
    tally, sign = queue.tally, 1 if queue.plan.mode == "max" else -1
    if len(tally.tasks) != 1:
        return None
    found = tally.best()
    if found is not None:
        cell, mean, count = found
        metric = queue.plan.metric_of(queue.plan.trials[0].spec)
        return f"{one_line(cell)}, validation {metric} {mean:.4f} ({count} trial{'s' if count > 1 else ''})"
    running = [job for job in tally.running.values() if job.best is not None]
    if not running:
        return None
    first = max(running, key=lambda job: sign * (job.best or 0.0))
    return f"{one_line(first.cell)}, validation {queue.plan.metric_of(first.spec)} {first.best:.4f} (running)"


@dataclass
class Progress:
    """Shows a sweep while it runs.

    Args:
        queue: the sweep's trial queue; read only in ``tick``, in the thread that changes it.
    """

    queue: TrialQueue
    console: Console | None
    now: Snapshot = field(init=False)
    began: float = field(default_factory=time.monotonic)
    notice: str | None = None
    _live: Live | None = None
    _spoke: float = field(default_factory=time.monotonic)
    _seen: float = 0.0

    def __post_init__(self) -> None:
        self.now = snapshot(self.queue)

    def __enter__(self) -> Progress:
        if self.console is not None and self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def tick(self) -> None:
        """Refresh, at most five times a second; without a terminal print a line every few seconds."""
        now = time.monotonic()
        if now - self._seen < 0.2:
            return
        self._seen, self.now = now, snapshot(self.queue)
        if self.console is not None and self._live is None and now - self._spoke >= LINE_EVERY:
            self._spoke = now
            show(self.line(), self.console)

    def line(self) -> str:
        """The state in one line."""
        now = self.now
        parts = [f"{self.queue.plan.name}: {now.counts()}"]
        if now.teachers:
            parts.append("; ".join(now.teachers))
        parts += now.looks[:1]
        if now.best is not None:
            parts.append(f"best so far: {now.best}")
        parts += now.waits[:1]
        if self.notice is not None:
            parts.append(self.notice)
        return "; ".join([*parts, self._times()])

    def _times(self) -> str:
        text = f"{clock(time.monotonic() - self.began)} elapsed"
        return text if self.now.left is None else f"{text}, about {clock(self.now.left)} left"

    def __rich__(self) -> RenderableType:
        now = self.now
        bar = Table.grid(expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        bar.add_row(ProgressBar(total=max(1, now.needed), completed=now.ended), f"  {now.ended}/{now.needed}")
        lines: list[RenderableType] = [bar, Text(now.counts())]
        lines += [Text(text) for text in now.looks[:4]]
        if now.best is not None:
            lines.append(Text.assemble("best so far: ", (now.best, "bold")))
        lines += [Text(text, style="dim") for text in (*now.teachers, *now.running)[:8]]
        lines += [Text(text, style="yellow") for text in now.waits[:2]]
        if self.notice is not None:
            lines.append(Text(self.notice, style="yellow"))
        lines.append(Text(self._times()))
        title = f"sweep {self.queue.plan.name}"
        return Harmless(Panel(Group(*lines), title=title, title_align="left"))


class Counted:
    """Shows how many shards of stored targets are computed: a line every few seconds."""

    def __init__(self, name: str, screen: Console | None, every: float = 5.0) -> None:
        self.name, self.screen, self.every = name, screen, every
        self._begin = self._last = time.monotonic()
        self._first: float | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
        if done < total and now - self._last < self.every:
            return
        self._last = now
        text = f"stored targets, {done} of {total} shards computed; {clock(now - self._begin)} elapsed"
        if 1 < done < total:  # the time before the first shard is Ray's start
            text += f", about {clock((now - self._first) / (done - 1) * (total - done))} left"
        self.tell(text)

    def tell(self, text: str) -> None:
        """Show a sentence."""
        if self.screen is not None:
            show(f"{self.name}: {text}", self.screen)
