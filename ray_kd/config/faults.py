"""Tell a fault of the machine (a full disk, a read-only or lost mount) from an error of the run.

A run that meets a fault of the machine is unfinished and not failed: once the machine works again, the same
command resumes it. Only ``environment_fault`` makes the distinction, wherever the error was raised and
whatever exception wraps it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from ray_kd.config.errors import TrainingFailed, UserError

_AWAY = "The disk or its mount does not respond: check that it is mounted, and look at the system's log."
FAULTS: dict[int, str] = {
    errno.ENOSPC: "The disk is full: free some space.",
    errno.EDQUOT: "The quota is used up: free some space.",
    errno.EFBIG: "The file would exceed the limit on file sizes (ulimit -f).",
    errno.EROFS: "It is read-only: mount it for writing.",
    # Only Linux has EREMOTEIO.
    **{
        getattr(errno, name): _AWAY
        for name in ("EIO", "ESTALE", "ENOTCONN", "ENODEV", "ENXIO", "EHOSTDOWN", "EREMOTEIO")
        if hasattr(errno, name)
    },
    # A mount, or an object store that does not answer or throttles requests for too long.
    errno.ETIMEDOUT: "The storage does not answer: check its network, its limits and its keys.",
}
"""The numbers of errors of the machine, each with what to do."""

_NUMBERED = re.compile(r"\[errno (\d+)\]|\(os error (\d+)\)", re.IGNORECASE)
"""How Python, pyarrow and Rust (safetensors) write an error's number into a text."""
_REQUEST = re.compile(
    r"Generic \w+ error: .*(?:HTTP error|status code: (?:408|429|5\d\d))"
    r"|<Code>(?:ExpiredToken|InvalidToken|RequestTimeout|RequestTimeTooSkewed)</Code>"
)
"""How obstore words a request that an object store did not answer, or refused for the time being."""
_UNMISTAKABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN)
"""Errors that are also recognised by their wording; the wording of the others occurs elsewhere too."""


class EnvironmentFault(UserError):
    """A fault of the machine and not of the run: the run is unfinished, and the same command resumes it.

    The command line prints it without a traceback and exits with code 3.
    """


class LockLost(EnvironmentFault):
    """Another process took over a lock, or it could not be renewed in time: its holder stops writing."""


def environment_fault(error: BaseException) -> EnvironmentFault | None:
    """The fault of the machine that ``error`` or one of its causes is; None: it is an error of the run."""
    for one in _chain(error):
        if isinstance(one, EnvironmentFault):
            return one
        number = _number(one)
        if number is not None:
            if isinstance(error, (UserError, TrainingFailed)):  # its message says more
                return EnvironmentFault(str(error))
            return EnvironmentFault(_words(one, number))
    return None


def fault_in(text: str) -> EnvironmentFault | None:
    """The fault of the machine that the last line of a traceback names; None: it names another error."""
    last = (text.strip().splitlines() or [""])[-1]
    return EnvironmentFault(last) if _in_text(last) is not None else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, nearest first; Ray keeps causes in attributes of its own."""
    queue, seen = [error], set[int]()
    while queue:
        one = queue.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        found = [one.__cause__, None if one.__suppress_context__ else one.__context__]
        found += [getattr(one, "cause", None), getattr(one, "controller_failure", None)]
        for several in (getattr(one, "worker_failures", None), getattr(one, "exceptions", None)):
            found += several.values() if isinstance(several, dict) else several or ()
        queue += [each for each in found if isinstance(each, BaseException)]


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and isinstance(error.errno, int):  # pyarrow's often have no number
        return error.errno if error.errno in FAULTS else None
    return _in_text(str(error))


def _in_text(text: str) -> int | None:
    for groups in _NUMBERED.findall(text):
        number = int(groups[0] or groups[1])
        if number in FAULTS:
            return number
    if "inline_container.cc" in text and "unexpected pos" in text:
        return errno.ENOSPC  # torch.save raises it when a file was written only in part
    if _REQUEST.search(text):
        return errno.ETIMEDOUT
    return next((number for number in _UNMISTAKABLE if os.strerror(number) in text), None)


def _words(error: BaseException, number: int) -> str:
    where = getattr(error, "filename", None)
    if where is not None:
        return f"{where}: {os.strerror(number)}. {FAULTS[number]}"
    text = getattr(error, "strerror", None) or str(error)
    lines = str(text).strip().splitlines() or [os.strerror(number)]
    line = next((line for line in lines if _in_text(line) is not None), lines[-1])
    return f"{line.rstrip('.')}. {FAULTS[number]}"
