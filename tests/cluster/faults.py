"""What the tests of this folder do to processes and nodes, and how they look at what is left."""

from __future__ import annotations

import json
import os
import resource
import shlex
import shutil
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
import pytest

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
        folder: where it starts; default: here.
    """

    def __init__(
        self, *arguments: str, prefix: Sequence[str] = (), folder: Path | None = None, **variables: str
    ) -> None:
        self.mark = uuid.uuid4().hex
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this object)
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", "from ray_kd.cli.main import main; main()", *arguments],
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
            cwd=folder,
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


def another_torch(folder: Path) -> Path:
    """This machine's PyTorch as a node with another version has it: every file the same but one."""
    import torch

    real, copy = Path(torch.__file__).parent, folder / "torch"
    copy.mkdir(parents=True)
    for file in real.iterdir():
        if file.name != "version.py":
            (copy / file.name).symlink_to(file)
    text = (real / "version.py").read_text()
    (copy / "version.py").write_text(text.replace(torch.__version__, "1.13.0"))
    return folder


def cut_off(*folders: Path) -> list[str]:
    """A command's prefix: what follows sees empty folders in these places, as on another machine.

    A real node that lacks a folder needs mounts of its own. root has them on any Linux, and so has anybody
    else whose kernel allows user namespaces (most do; Ubuntu from 23.10 on restricts them). What refuses both
    is a container without CAP_SYS_ADMIN, as Docker starts them: there, and only there, this skips.
    """
    for flags in ("-m", "-Urm"):
        prefix = ["unshare", flags, "bash", "-c"]
        if (
            shutil.which("unshare")
            and not subprocess.run([*prefix, "mount -t tmpfs none /mnt"], capture_output=True).returncode
        ):
            mounts = " && ".join(f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in folders)
            return [*prefix, f'{mounts} && exec "$@"', "bash"]
    pytest.skip("this system lets no process have mounts of its own")


@contextmanager
def new_node(cluster: Any, cpus: int, prefix: Sequence[str] = ()) -> Iterator[str]:
    """A node started by the command that people use; its id. Unlike ``add_node`` it works in any thread."""
    known = {node["NodeID"] for node in cluster.global_state.node_table()}
    ray = Path(sys.executable).with_name("ray")
    process = subprocess.Popen(
        [*prefix, str(ray), "start", f"--address={cluster.address}", f"--num-cpus={cpus}", "--block"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def joined() -> list[str]:
        table = cluster.global_state.node_table()
        return [node["NodeID"] for node in table if node["Alive"] and node["NodeID"] not in known]

    try:
        yield wait_for(joined)[0]
    finally:
        process.terminate()
        process.wait(timeout=30)
