"""What the tests of this folder do to processes and nodes, and how they look at what is left."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[2]
MARK = "RAY_KD_TEST"
"""A variable that every process below a command inherits."""


def wait_for(what: Callable[[], Any], seconds: float = 240) -> Any:
    """The first true answer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def lines(folder: Path, name: str = "epochs") -> list[str]:
    """The whole lines of a run's records so far."""
    try:
        text = (folder / f"{name}.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def records(folder: Path, name: str = "epochs") -> list[dict[str, Any]]:
    """A run's records so far."""
    return [json.loads(line) for line in lines(folder, name)]


def losses(folder: Path) -> list[float]:
    """The loss curve of a run."""
    return [record["train"]["loss"] for record in records(folder)]


def holder(folder: Path) -> int:
    """The process that trains a run (rank 0, where there are several)."""
    return int((folder / "lock").read_text().split(":")[1])


@contextmanager
def full_disk() -> Iterator[None]:
    """Within the block this process can write no byte to a file; Python ignores the signal of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Command:
    """``ray-kd ...`` in a process of its own, all of whose descendants can be found.

    Args:
        prefix: a command that starts it.
    """

    def __init__(self, *arguments: str, prefix: Sequence[str] = (), **variables: str) -> None:
        self.mark = uuid.uuid4().hex
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this object)
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", "from ray_kd.cli.main import main; main()", *arguments],
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, MARK: self.mark, **variables},
        )

    def end(self, seconds: float = 240) -> tuple[int, str]:
        """Wait for it; its exit code and all that it said."""
        return self.process.wait(timeout=seconds), self.said

    @property
    def said(self) -> str:
        """All that it has said so far."""
        return os.pread(self._output.fileno(), 1 << 24, 0).decode()

    def wait_for(self, text: str, times: int = 1, seconds: float = 240) -> None:
        """Wait until it has said something so many times."""
        wait_for(lambda: self.said.count(text) >= times or self.process.poll() is not None, seconds)
        assert self.said.count(text) >= times, self.said

    def left(self) -> list[psutil.Process]:
        """Processes below it that still run."""
        return left_of(self.mark)


def left_of(mark: str) -> list[psutil.Process]:
    """Processes that inherited a mark and still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
