"""Files of a disk that are written completely or not at all."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

LEFT = ".writing-"
"""How names begin of files that are being written, or were when their process was killed."""


def writing_name() -> str:
    """How the name of a file begins that this process is writing; see ``leftovers``."""
    return f"{LEFT}{socket.gethostname()}-{os.getpid()}-"


def write_whole(full: str, data: bytes) -> None:
    """Write beside the file, then rename into place."""
    folder = os.path.dirname(full)
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=writing_name())
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, full)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def append_whole(full: str, data: bytes) -> None:
    """Append; a part that was written before an error is removed again."""
    descriptor = os.open(full, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before, rest = os.fstat(descriptor).st_size, memoryview(data)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except BaseException:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
