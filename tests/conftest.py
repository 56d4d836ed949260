"""What every test starts from: one thread, so that numbers repeat; movable seeds; one Ray for many tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import torch

from tests.helpers import start_ray
from tests.s3 import S3Server, s3_server

# Else Ray's processes, which are polite, wait for the tests that run beside them.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed-shift",
        type=int,
        default=0,
        metavar="N",
        help="add N to every seed of the tests marked 'outcome': what they assert has to hold there too",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A marked test whose seeds stay where they are would pass under any ``--seed-shift`` unasked."""
    for item in items:
        if item.get_closest_marker("outcome") and "seed_shift" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} is marked 'outcome' and takes no seed_shift")


@pytest.fixture(scope="session")
def seed_shift(request: pytest.FixtureRequest) -> int:
    """What a test marked 'outcome' adds to all of its seeds (``tests.helpers.shifted`` does for a run)."""
    shift: int = request.config.getoption("--seed-shift")
    return shift


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> None:
    torch.set_num_threads(1)
    marked = request.node.get_closest_marker("outcome") is not None
    torch.manual_seed(request.config.getoption("--seed-shift") if marked else 0)


@pytest.fixture
def two_cpus() -> None:
    """A local Ray of two CPUs, whatever the machine has: one for all tests of a session.

    A test that needs a Ray or a cluster of its own starts it in another process, or takes ``no_ray``.
    """
    start_ray()


@pytest.fixture(scope="session")
def s3_running() -> Iterator[S3Server]:
    """An S3 server on loopback, one for all tests of a session."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_running: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The S3 server, with keys for it in this process's environment, and neither faults nor requests yet."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_running.environment.items():
        monkeypatch.setenv(name, value)
    s3_running.seen.clear()
    yield s3_running
    s3_running.faults.clear()


def pytest_sessionfinish() -> None:
    """The session's Ray ends with it."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
