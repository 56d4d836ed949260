"""Files by path below one root, on a disk that every node shares or on an object store.

A file is written completely or not at all. Only local files can be appended to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ray_kd.config.errors import UserError
from ray_kd.config.faults import FAULTS, EnvironmentFault
from ray_kd.config.names import printable
from ray_kd.storage.damage import DamagedFile
from ray_kd.storage.shapes import misfit

LEFT = ".writing-"
"""How names begin of files that are being written, or were when their process was killed."""
PROBE = ".probe"
"""The folder in which a cluster's nodes show that they share the storage."""


class Store:
    """A folder that trials, teachers and sweeps live in.

    Args:
        uri: a local (or shared) path, or the URI of a pyarrow filesystem (``s3://bucket/kd``).

    Raises:
        UserError: no pyarrow filesystem opens the URI.

    Example:
        >>> store = Store("results")
        >>> store.write_json("notes/one.json", {"lr": 0.1})
        >>> store.read_json("notes/one.json"), store.names("notes")
        ({'lr': 0.1}, ['one.json'])
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri).rstrip("/") or "/"
        scheme = urlparse(self.uri).scheme
        self.is_local = len(scheme) < 2 or scheme == "file"  # a scheme of one letter is a Windows drive
        self._filesystem: Any = None
        if self.is_local:
            path = urlparse(self.uri).path if scheme == "file" else self.uri
            self.root = os.path.abspath(os.path.expanduser(path))
            self.uri = self.root
            return
        from pyarrow import fs  # imported only for an object store

        try:
            self._filesystem, self.root = fs.FileSystem.from_uri(self.uri)
        except Exception as error:
            raise UserError(
                f"storage: cannot open '{self.uri}' ({error}). Expected a path or a URI that pyarrow knows, "
                "such as s3://bucket/folder or gs://bucket/folder."
            ) from error

    def __reduce__(self) -> Any:
        return Store, (self.uri,)

    def path(self, path: str = "") -> str:
        """The full path of something below the root."""
        return f"{self.root}/{path}".rstrip("/") if path else self.root

    def child(self, path: str) -> Store:
        """The store of a folder below this one."""
        return Store(f"{self.uri}/{path}")

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists."""
        if self.is_local:
            return os.path.exists(self.path(path))
        return bool(self._filesystem.get_file_info(self.path(path)).type.value)

    def read(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: no such file.
        """
        if self.is_local:
            try:
                return Path(self.path(path)).read_bytes()
            except NotADirectoryError as error:
                raise FileNotFoundError(path) from error
        with self._filesystem.open_input_stream(self.path(path)) as stream:
            return bytes(stream.read())

    def write(self, path: str, data: bytes) -> None:
        """Write a file completely or not at all; missing folders are created.

        Raises:
            UserError: the disk is full, the folder is not writable, or a file lies where a folder is needed.
        """
        with self._writing(path):
            if self.is_local:
                _write_whole(self.path(path), data)
                return
            self._filesystem.create_dir(os.path.dirname(self.path(path)), recursive=True)
            with self._filesystem.open_output_stream(self.path(path)) as stream:
                stream.write(data)

    def append(self, path: str, record: dict[str, Any]) -> None:
        """Append one JSON line to a local file, completely or not at all."""
        full = self.path(path)
        with self._writing(path):
            try:
                _append_whole(full, json_line(record))
            except FileNotFoundError:
                os.makedirs(os.path.dirname(full), exist_ok=True)
                self.append(path, record)

    def write_text(self, path: str, text: str) -> None:
        """Write a text for people: nothing in it commands the terminal that shows the file."""
        self.write(path, printable(text).encode())

    def write_json(self, path: str, value: Any) -> None:
        """Write a JSON file whole."""
        self.write(path, (json.dumps(value, indent=2) + "\n").encode())

    def read_json(self, path: str, shape: Any = Any) -> Any:
        """A JSON file's value.

        Args:
            shape: what the file holds, as ``storage.shapes`` says.

        Raises:
            FileNotFoundError: no such file.
            DamagedFile: it is no valid JSON, or not of that shape.
        """
        data = self.read(path)
        try:
            value = json.loads(data)
            problem = misfit(shape, value)
        except (ValueError, RecursionError) as error:
            problem = str(error)
        if problem is not None:
            raise DamagedFile(self.path(path), problem)
        return value

    def find_json(self, path: str, shape: Any = Any) -> Any:
        """The same; None if the file is missing or damaged."""
        try:
            return self.read_json(path, shape)
        except (FileNotFoundError, NotADirectoryError, DamagedFile):
            return None

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of the files and folders in a folder; empty if the folder does not exist."""
        if self.is_local:
            try:
                return sorted(os.listdir(self.path(folder)))
            except (FileNotFoundError, NotADirectoryError):
                return []
        from pyarrow import fs

        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        return sorted(info.base_name for info in self._filesystem.get_file_info(selector))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The bytes of every file in a folder and in those within it, by path below the root, sorted."""
        found: dict[str, int] = {}
        if self.is_local:
            for place, _, names in os.walk(self.path(folder)):
                for name in names:
                    full = os.path.join(place, name)
                    with contextlib.suppress(FileNotFoundError):  # gone since the folder was listed
                        found[os.path.relpath(full, self.root)] = os.lstat(full).st_size
        else:
            from pyarrow import fs

            selector = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=True)
            for info in self._filesystem.get_file_info(selector):
                if info.is_file:
                    found[info.path.removeprefix(f"{self.root}/")] = int(info.size)
        return dict(sorted(found.items()))

    def delete(self, path: str) -> None:
        """Delete a file, if it exists."""
        if self.is_local:
            Path(self.path(path)).unlink(missing_ok=True)
        elif self.exists(path):
            self._filesystem.delete_file(self.path(path))

    def move(self, path: str, to: str) -> None:
        """Move a file to another path, replacing a file there."""
        with self._writing(to):
            if self.is_local:
                os.makedirs(os.path.dirname(self.path(to)), exist_ok=True)
                os.replace(self.path(path), self.path(to))
            else:
                self._filesystem.move(self.path(path), self.path(to))

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with everything below it, if it exists."""
        if self.is_local:
            shutil.rmtree(self.path(folder), ignore_errors=True)
        elif self.exists(folder):
            self._filesystem.delete_dir(self.path(folder))

    def copy(self, path: str, to: str) -> None:
        """Give a file a second name, replacing a file of that name; on a local disk it takes no space."""
        with self._writing(to):
            if not self.is_local:
                self._filesystem.copy_file(self.path(path), self.path(to))
                return
            Path(self.path(to)).unlink(missing_ok=True)
            try:
                os.link(self.path(path), self.path(to))
            except OSError:  # a disk without hard links
                shutil.copyfile(self.path(path), self.path(to))

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create a file that must not exist yet; True if this call created it. A failed write leaves no file.

        An object store has no exclusive creation: there the file is written and read back after a moment, and
        of several writers the last one has created it.
        """
        if not self.is_local:
            if self.exists(path):
                return False
            self.write(path, data)
            time.sleep(0.5)
            try:
                return self.read(path) == data
            except FileNotFoundError:  # another process created and deleted it meanwhile
                return False
        full = self.path(path)
        with self._writing(path):
            os.makedirs(os.path.dirname(full), exist_ok=True)
            try:
                file = open(full, "xb")  # noqa: SIM115 (closed below)
            except FileExistsError:
                return False
            try:
                with file:
                    file.write(data)
            except BaseException:
                os.unlink(full)
                raise
        return True

    def touch(self, path: str) -> None:
        """Set a file's date to now; on a disk this needs no free space."""
        if self.is_local:
            os.utime(self.path(path))
        else:
            self.write(path, self.read(path))

    def modified(self, path: str) -> float:
        """When a file was last written, in seconds since the epoch."""
        if self.is_local:
            return os.stat(self.path(path)).st_mtime
        return float(self._info(path).mtime.timestamp())

    def size(self, path: str) -> int:
        """The bytes of a file."""
        return os.stat(self.path(path)).st_size if self.is_local else int(self._info(path).size)

    def _info(self, path: str) -> Any:
        """What an object store says about a file."""
        info = self._filesystem.get_file_info(self.path(path))
        if not info.type.value:
            raise FileNotFoundError(path)
        return info

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        """Within the block an error of the disk becomes one that says what to do."""
        try:
            yield
        except OSError as error:
            raise self.unwritable(path, error) from error

    def unwritable(self, path: str, error: OSError) -> UserError:
        """The error for a file that cannot be written; its message says what to do."""
        number = error.errno or 0
        elsewhere = "choose another place with 'storage'."
        reason = f"cannot write {self.path(path)}: {error.strerror or error}"
        if number in FAULTS:
            return EnvironmentFault(f"{reason}. {FAULTS[number]} Or {elsewhere}")
        if number == errno.EACCES:
            return UserError(f"{reason}. Choose a folder you may write to with 'storage'.")
        if number in (errno.ENOTDIR, errno.EEXIST):
            return UserError(f"{reason}. A file lies where a folder is needed: {elsewhere}")
        return UserError(f"{reason}. C{elsewhere[1:]}")


def json_line(record: dict[str, Any]) -> bytes:
    """A record as one JSON line."""
    return (json.dumps(record, separators=(", ", ": ")) + "\n").encode()


def writing_name() -> str:
    """How the name of a file begins that this process is writing; see ``leftovers``."""
    return f"{LEFT}{socket.gethostname()}-{os.getpid()}-"


def _write_whole(full: str, data: bytes) -> None:
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


def _append_whole(full: str, data: bytes) -> None:
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
