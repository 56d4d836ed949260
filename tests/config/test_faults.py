"""The machine's errors and a run's own are told apart, whatever an error was wrapped in."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ray_kd.config.ending import Ending, ending_of, exit_code, noted
from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.config.faults import EnvironmentFault, environment_fault, fault_in
from ray_kd.storage import Store

MACHINES = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ENOTCONN", "ENODEV", "ENXIO")
OURS = ("ENOENT", "EACCES", "EEXIST", "ENOTDIR", "EISDIR", "EPIPE", "ECONNREFUSED")


def raised(name: str) -> OSError:
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), "/data/file")


@pytest.mark.parametrize("name", MACHINES)
def test_the_machine_s_errors_as_they_are_raised(name: str, tmp_path: Path) -> None:
    fault = environment_fault(raised(name))
    assert fault is not None
    assert "/data/file" in str(fault)
    assert os.strerror(getattr(errno, name)) in str(fault)
    told = Store(tmp_path).unwritable("x", raised(name))
    assert isinstance(told, EnvironmentFault)
    assert str(tmp_path / "x") in str(told)
    assert isinstance(pickle.loads(pickle.dumps(told)), EnvironmentFault)  # noqa: S301
    assert ending_of(told) is Ending.UNFINISHED


@pytest.mark.parametrize("name", OURS)
def test_errors_that_are_not_the_machine_s(name: str, tmp_path: Path) -> None:
    assert environment_fault(raised(name)) is None
    assert not isinstance(Store(tmp_path).unwritable("x", raised(name)), EnvironmentFault)
    assert ending_of(raised(name)) is Ending.FAILED


def wrapped(kind: str) -> Exception:
    """EIO as others hand it on."""
    try:
        try:
            raise raised("EIO")
        except OSError as error:
            if kind == "cause":
                raise UserError("dataset pets: cannot read a.png") from error
            if kind == "context":
                raise RuntimeError("while something else was done")  # noqa: B904
            if kind == "of no concern":
                raise UserError("a wish that cannot be met") from None
            raise
    except Exception as error:
        return error


def test_what_it_was_wrapped_in_makes_no_difference() -> None:
    from_cause = environment_fault(wrapped("cause"))
    assert str(from_cause) == "dataset pets: cannot read a.png", "what is in words already stays"
    assert environment_fault(wrapped("context")) is not None
    assert environment_fault(wrapped("of no concern")) is None
    assert environment_fault(ExceptionGroup("several", [ValueError("x"), raised("EROFS")])) is not None


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[Errno 30] Read-only file system: '/x'",
        "[errno 5] Error reading bytes from file. Detail: [errno 5] Input/output error",
        "unable to write to file </torch_1>: No space left on device (28)",
        "Error in file write: Stale file handle",
        # obstore: an answer that broke off, none at all, 503, keys that have expired
        "Generic S3 error: HTTP error: request or response body error",
        "Generic S3 error: Error performing PUT http://127.0.0.1:9/b/kd/x in 3.7s, after 10 retries, "
        "max_retries: 10, retry_timeout: 180s  - HTTP error: error sending request",
        "Generic GCS error: Error performing GET https://host/b/kd/x in 4s, after 20 retries, "
        "max_retries: 20, retry_timeout: 60s  - Server returned non-2xx status code: 503 Slow Down: "
        "<Error></Error>\n\nDebug source:\nGeneric {\n}",
        "The operation lacked valid authentication credentials for path kd/x: Error performing GET "
        "https://host/b/kd/x in 4ms - Server returned non-2xx status code: 403 Forbidden: "
        "<Error><Code>ExpiredToken</Code></Error>",
    ],
)
def test_errors_that_lost_their_number_are_known_by_their_words(text: str) -> None:
    fault = environment_fault(RuntimeError(text))
    assert fault is not None
    assert str(fault).startswith(text.splitlines()[0])
    first = text.splitlines()[0]
    assert fault_in(f"Traceback (most recent call last):\n  File x\nRuntimeError: {first}\n") is not None


@pytest.mark.parametrize(
    "error",
    [
        TrainingFailed("the task loss became NaN or infinite in epoch 3"),
        UserError("paths.0.weight: expected a number"),
        RuntimeError("CUDA error: invalid device ordinal"),
        KeyError(28),
        ConnectionResetError("[Errno 104] Connection reset by peer"),
        OSError(
            "Generic S3 error: Error performing GET http://127.0.0.1:9/nobody/kd in 2ms - Server returned "
            "non-2xx status code: 400 Bad Request: <Error><Code>InvalidRequest</Code></Error>"
        ),
        OSError("Object at location kd/x not found: status code: 404 Not Found: <Code>NoSuchBucket</Code>"),
    ],
)
def test_a_run_s_own_errors_stay_its_own(error: Exception) -> None:
    assert environment_fault(error) is None
    assert fault_in(f"OSError: [Errno 28] No space left on device\n\n{type(error).__name__}: {error}") is None
    assert ending_of(error) is Ending.FAILED


LIBRARIES = """
import resource, sys
import torch
from pyarrow import fs
from safetensors.torch import save_file
from ray_kd.config.faults import environment_fault

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
values = {"x": torch.zeros(100_000)}

def arrow():
    with fs.LocalFileSystem().open_output_stream("arrow") as stream:
        stream.write(bytes(100_000))

def plain():
    with open("plain", "wb") as file:
        file.write(bytes(100_000))

writers = {
    "arrow": arrow,
    "plain": plain,
    "safetensors": lambda: save_file(values, "safetensors"),
    "torch": lambda: torch.save(values, "torch"),
}
for name, write in writers.items():
    try:
        write()
    except Exception as error:
        print(name, environment_fault(error) is not None, repr(error))
"""


def test_real_errors_of_libraries(tmp_path: Path) -> None:
    """A limit on file sizes stands for a full disk: what libraries make of it, and nothing of ours."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line.split()[:2] for line in done.stdout.splitlines()]
    assert told == [[name, "True"] for name in ("arrow", "plain", "safetensors", "torch")], done.stdout


def test_what_ray_makes_of_an_error() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    error = exceptions.RayTaskError("step", "a traceback", raised("ESTALE"))
    assert environment_fault(error) is not None
    assert environment_fault(error.as_instanceof_cause()) is not None
    own = exceptions.RayTaskError("step", "a traceback", ValueError("of its own"))
    assert environment_fault(own) is None


def test_exit_codes() -> None:
    assert exit_code([]) == 0
    assert exit_code([Ending.FINISHED, Ending.STOPPED]) == 0
    assert exit_code([Ending.FINISHED, Ending.FAILED]) == 1
    assert exit_code([Ending.FINISHED, Ending.BLOCKED]) == 1
    assert exit_code([Ending.FAILED, Ending.UNFINISHED]) == 3, "to run it again comes first"


def test_what_a_ledger_of_the_version_before_says() -> None:
    old = {"status": "failed", "reason": "its teacher (tiny-teacher) failed: the task loss became NaN"}
    assert noted(old) is Ending.BLOCKED
    assert noted({"status": "failed", "reason": "NaN"}) is Ending.FAILED
    assert noted({"status": "stopped", "reason": None}) is Ending.STOPPED
    assert noted(None) is None
    assert noted({"status": "of a version to come"}) is None
