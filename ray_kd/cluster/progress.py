"""What a sweep shows while it runs: a live panel on a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ray_kd.config.ending import Ending
from ray_kd.config.names import one_line, print_plain
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

    @property
    def ended(self) -> int:
        """Trials that ended in any way; unfinished trials have not ended."""
        return self.endings.total() - self.endings[Ending.UNFINISHED]

    @property
    def waiting(self) -> int:
        """Trials that have not begun."""
        return self.total - self.endings.total() - len(self.running)

    def counts(self) -> str:
        """``12 of 50 trials done, 2 running, ...``"""
        text = (
            f"{self.ended} of {self.total} trials done, {len(self.running)} running, {self.waiting} waiting"
        )
        text += f", {self.endings[Ending.FAILED]} failed"
        rest = {Ending.STOPPED: "stopped early", Ending.BLOCKED: "blocked", Ending.UNFINISHED: "unfinished"}
        more = (f", {self.endings[ending]} {word}" for ending, word in rest.items() if self.endings[ending])
        return text + "".join(more)


def snapshot(queue: TrialQueue) -> Snapshot:
    """The state of ``queue`` now."""
    trials = [job for job in queue.jobs.values() if job.trial is not None]
    teachers = [job for job in queue.jobs.values() if job.trial is None]
    return Snapshot(
        total=len(trials) + sum(entry.count for entry in queue.plan.later),
        endings=Counter(job.outcome.status for job in trials if job.outcome is not None),
        running=tuple(_doing(job) for job in trials if job.state == "running"),
        teachers=tuple(_doing(job) for job in teachers if job.state == "running"),
        waits=tuple(job.waits for job in queue.jobs.values() if job.state == "running" and job.waits),
        best=_best(queue, trials),
        left=_left(queue, trials, teachers),
    )


def _doing(job: Job) -> str:
    seed = f", seed {job.trial.seed}" if job.trial is not None else ""
    return f"{one_line(job.cell)}{seed}: epoch {job.epoch} of {job.spec.training.epochs}"


def _best(queue: TrialQueue, trials: list[Job]) -> str | None:
    """The cell with the best mean validation metric over its finished trials; else the best running trial.

    None where there are several tasks, or no trial has been evaluated.
    """
    if len({job.spec.task.component_name for job in trials}) != 1:
        return None  # their metrics cannot be compared
    metric, sign = queue.plan.metric_of(trials[0].spec), 1 if queue.plan.mode == "max" else -1
    cells: dict[str, list[float]] = defaultdict(list)
    for job in trials:
        if job.outcome is not None and job.outcome.status is Ending.FINISHED and job.phase != "control":
            cells[job.cell].append(job.outcome.best.get(metric, float("nan")))
    means = {cell: sum(values) / len(values) for cell, values in cells.items()}
    means = {cell: mean for cell, mean in means.items() if mean == mean}
    if means:
        cell = max(means, key=lambda name: sign * means[name])
        count = len(cells[cell])
        trials_of = f"{count} trial{'s' if count > 1 else ''}"
        return f"{one_line(cell)}, validation {metric} {means[cell]:.4f} ({trials_of})"
    running = [job for job in trials if job.best is not None]
    if not running:
        return None
    first = max(running, key=lambda job: sign * (job.best or 0.0))
    return f"{one_line(first.cell)}, validation {metric} {first.best:.4f} (running)"


def _left(queue: TrialQueue, trials: list[Job], teachers: list[Job]) -> float | None:
    """Estimated seconds of training that are left on all slots, from the seconds per epoch of each cell."""
    paces: dict[str, list[float]] = defaultdict(list)
    for job in trials:
        if job.outcome is not None and job.outcome.epochs and job.outcome.seconds:
            paces[job.cell].append(job.outcome.seconds / job.outcome.epochs)
    for job in trials if not paces else ():
        if job.state == "running" and job.epoch and job.began is not None:
            paces[job.cell].append((time.monotonic() - job.began) / job.epoch)
    if not paces:
        return None
    mean = {cell: sum(values) / len(values) for cell, values in paces.items()}
    overall = sum(mean.values()) / len(mean)
    seconds = [
        (job.spec.training.epochs - job.epoch) * mean.get(job.cell, overall)
        for job in trials
        if job.state != "done"
    ]
    epochs = sum(job.spec.training.epochs for job in trials) / max(1, len(trials))
    seconds += [overall * epochs] * sum(entry.count for entry in queue.plan.later)
    seconds += [
        (job.spec.training.epochs - job.epoch) * overall for job in teachers if job.state == "running"
    ]
    return max(sum(seconds) / max(1, queue.slots), max(seconds, default=0.0))


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
            print_plain(self.console, self.line())

    def line(self) -> str:
        """The state in one line."""
        now = self.now
        parts = [f"{self.queue.plan.name}: {now.counts()}"]
        if now.teachers:
            parts.append("; ".join(now.teachers))
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
        bar.add_row(ProgressBar(total=max(1, now.total), completed=now.ended), f"  {now.ended}/{now.total}")
        lines: list[RenderableType] = [bar, Text(now.counts())]
        if now.best is not None:
            lines.append(Text.assemble("best so far: ", (now.best, "bold")))
        lines += [Text(text, style="dim") for text in (*now.teachers, *now.running)[:8]]
        lines += [Text(text, style="yellow") for text in now.waits[:2]]
        if self.notice is not None:
            lines.append(Text(self.notice, style="yellow"))
        lines.append(Text(self._times()))
        return Panel(Group(*lines), title=f"sweep {self.queue.plan.name}", title_align="left")


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
            print_plain(self.screen, f"{self.name}: {text}")
