"""Clusters that ask for a token and clusters that do not, joined by who has one and by who has none."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.faults import MARK, REPOSITORY, left_of, wait_for
from tests.helpers import TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SECRET = "0123456789abcdef" * 4
CLIENT = """
import json, os, sys
from ray_kd.cluster.connect import connect
from ray_kd.config.errors import UserError

def join(how):
    import ray
    address = None
    if how.startswith("RAY_"):
        name, _, value = how.partition("=")
        os.environ[name] = value
    else:
        address = how
    try:
        with connect(address):
            @ray.remote(num_cpus=1)
            class Actor:
                def mode(self):
                    return os.environ.get("RAY_AUTH_MODE")
            return ["joined", ray.get(Actor.remote().mode.remote(), timeout=200)]
    except UserError as error:
        return ["refused", str(error)]

print(json.dumps([[*join(how), os.environ.get("RAY_AUTH_MODE")] for how in sys.argv[1:]]))
"""


@dataclass
class Started:
    """A cluster: its address, and the folder through which ``auto`` finds it."""

    address: str
    folder: Path

    def ways(self) -> list[str]:
        """How it can be named; the last one stays set."""
        return [self.address, "auto", f"RAY_ADDRESS={self.address}"]


def environment(home: Path, **variables: str) -> dict[str, str]:
    """That of somebody who has set nothing of Ray's but this."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**kept, "HOME": str(home), "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **variables}


def home_of(folder: Path, token: str | None = None) -> Path:
    """An empty home, or one with a token where Ray looks for it."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    if token is not None:
        (home / ".ray").mkdir(exist_ok=True)
        (home / ".ray" / "auth_token").write_text(token)
    return home


def _is_up_or_gone(process: subprocess.Popen[bytes], address: Path) -> bool:
    return process.poll() is not None or bool(address.is_file() and address.read_text().strip())


def head(folder: Path, where: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """A node's process and its address; tried again where Ray gave up waiting for it, after half a minute."""
    asked = ["--head", "--block", "--port=0", "--num-cpus=1", "--object-store-memory=80000000"]
    ray = Path(sys.executable).with_name("ray")
    # Ray says that it has started before it writes down where: ``auto`` needs the latter.
    address = folder / "ray" / "ray_current_cluster"
    for _ in range(3):
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [str(ray), "start", *asked, "--include-dashboard=false"],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=where,
            )
        wait_for(partial(_is_up_or_gone, process, address))
        if process.poll() is None:
            return process, address.read_text().strip()
        if "timed out during startup" not in (folder / "log").read_text():
            break
    raise AssertionError((folder / "log").read_text())


@contextlib.contextmanager
def cluster(mark: str, **variables: str) -> Iterator[Started]:
    """One node, started as Ray's documentation says, in a home of its own; ready once the block begins."""
    folder = Path(tempfile.mkdtemp(prefix="kd", dir="/tmp"))  # short: a socket's path has an end
    where = environment(home_of(folder), RAY_TMPDIR=str(folder), **{MARK: mark}, **variables)
    process = None
    try:
        process, address = head(folder, where)
        yield Started(address, folder)
    finally:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for left in left_of(mark):
            with contextlib.suppress(Exception):
                left.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def plain() -> Iterator[Started]:
    """A cluster that asks for no token."""
    with cluster(uuid.uuid4().hex) as started:
        yield started


@pytest.fixture(scope="module")
def guarded() -> Iterator[Started]:
    """A cluster that asks for a token."""
    with cluster(uuid.uuid4().hex, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=SECRET) as started:
        yield started


def client(where: dict[str, str], *ways: str) -> list[list[Any]]:
    """What became of joining in these ways, one after the other in one process.

    It says nothing else, unless ``auto`` has a choice here: then Ray names what it has chosen.
    """
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *ways], env=where, capture_output=True, text=True, timeout=500
    )
    said = [line for line in done.stderr.splitlines() if "Found multiple active Ray instances" not in line]
    assert (done.returncode, said) == (0, []), done.stderr
    return [list(one) for one in json.loads(done.stdout)]


def test_a_plain_cluster_is_joined_without_a_token(plain: Started, tmp_path: Path) -> None:
    where = environment(home_of(tmp_path), RAY_TMPDIR=str(plain.folder))
    assert client(where, *plain.ways()) == [["joined", None, None]] * 3


def test_a_plain_cluster_is_joined_by_who_has_a_token(plain: Started, tmp_path: Path) -> None:
    """Were it sent, the cluster would let the driver in and start none of its actors."""
    where = environment(home_of(tmp_path, SECRET), RAY_TMPDIR=str(plain.folder))
    assert client(where, *plain.ways()) == [["joined", None, None]] * 3


def test_a_token_is_sent_where_one_is_asked_for(guarded: Started, tmp_path: Path) -> None:
    where = environment(home_of(tmp_path, SECRET), RAY_TMPDIR=str(guarded.folder))
    file = tmp_path / "home" / ".ray" / "auth_token"
    assert client(where, *guarded.ways()) == [["joined", "token", None]] * 3
    named = environment(home_of(tmp_path, "another"), RAY_AUTH_TOKEN_PATH=str(tmp_path / "mine"))
    shutil.copy(file, tmp_path / "other")
    (tmp_path / "mine").write_text(SECRET)
    assert client(named, guarded.address) == [["joined", "token", None]]


def test_without_a_token_or_with_another_one_the_message_says_so(guarded: Started, tmp_path: Path) -> None:
    where = environment(home_of(tmp_path), RAY_TMPDIR=str(guarded.folder))
    for outcome, message, mode in client(where, *guarded.ways()):
        assert (outcome, mode) == ("refused", None)
        assert f"'{guarded.address}' asks for a token, and there is none here" in message
        assert "'ray get-auth-token' prints it" in message
    # The same process goes on once it has the right one.
    ways = [guarded.address, "RAY_AUTH_TOKEN_PATH=/nowhere", f"RAY_AUTH_TOKEN={SECRET}"]
    wrong = environment(home_of(tmp_path, "wrong"), RAY_ADDRESS=guarded.address)
    (refused, message, _), (lost, said, _), (joined, _, _) = client(wrong, *ways)
    assert (refused, lost, joined) == ("refused", "refused", "joined")
    assert f"'{guarded.address}' refuses the token of ~/.ray/auth_token" in message
    assert "RAY_AUTH_TOKEN_PATH" in said
    assert "/nowhere" in said


@pytest.mark.exhaustive
def test_a_mode_that_the_user_has_set_wins(plain: Started, guarded: Started, tmp_path: Path) -> None:
    home = home_of(tmp_path, SECRET)
    off = client(environment(home, RAY_AUTH_MODE="disabled"), plain.address, guarded.address)
    assert off[0] == ["joined", None, "disabled"]
    assert "asks for a token, but RAY_AUTH_MODE=disabled is set" in off[1][1]
    on = client(environment(home, RAY_AUTH_MODE="token"), guarded.address, plain.address)
    assert on[0] == ["joined", "token", "token"]
    assert "asks for no token, but RAY_AUTH_MODE=token is set" in on[1][1]


@pytest.mark.exhaustive
def test_a_local_start_leaves_nothing_that_keeps_from_joining(
    plain: Started, guarded: Started, tmp_path: Path
) -> None:
    """Ray sets its mode in a process that starts it, and leaves a token of its own in the home."""
    where = environment(home_of(tmp_path), RAY_TMPDIR=str(plain.folder))
    local, joined, refused = client(where, "local", plain.address, guarded.address)
    assert local == ["joined", "token", None]
    assert joined == ["joined", None, None]
    assert "refuses the token of ~/.ray/auth_token" in refused[1]
    assert client(where, "auto") == [["joined", None, None]], "nor in a later process"


@pytest.mark.exhaustive
def test_a_sweep_and_the_doctor_on_a_plain_cluster(plain: Started, tmp_path: Path) -> None:
    """The commands themselves, with the token that an earlier start here has left."""
    where = environment(home_of(tmp_path, SECRET), RAY_TMPDIR=str(plain.folder), RAY_ADDRESS=plain.address)
    file, place = tmp_path / "sweep.yaml", str(tmp_path / "results")
    cells = {"alone": {"paths": [], "teacher": None}}
    file.write_text(yaml.safe_dump({"name": "joined", "base": TINY, "seeds": [0], "cells": cells}))
    for arguments, said in (
        (["doctor", "--storage", place], "ok      node "),
        (["sweep", str(file), "--storage", place], "joined: 1 of 1 trials finished"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", "from ray_kd.cli.main import main; main()", *arguments],
            env=where,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in done.stdout + done.stderr


def test_ray_client_is_refused_with_the_way_that_works(tmp_path: Path) -> None:
    where = environment(home_of(tmp_path))
    asked, found = client(where, "ray://head:10001", "RAY_ADDRESS=ray://head:10001")
    assert asked[0] == found[0] == "refused"
    assert "ray job submit" in asked[1]
    assert found[1] == asked[1]
