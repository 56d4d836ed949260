"""Files by path below one root, on a disk that every node shares or on an object store.

A file is written completely or not at all. Only local files can be appended to.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from ray_kd.config.errors import StorageError, UserError
from ray_kd.config.faults import FAULTS, EnvironmentFault
from ray_kd.config.names import printable
from ray_kd.config.object_uri import ObjectURI
from ray_kd.storage.damage import DamagedFile
from ray_kd.storage.disk import append_whole, write_whole
from ray_kd.storage.objects import Objects
from ray_kd.storage.shapes import misfit

Stamp = tuple[bytes, Any]
"""A file's content and version: the time of its last write or, on an object store, its ETag."""
LOOK_EVERY, LOOK_FAR_EVERY = 0.2, 2.0
"""Seconds between two looks for a change: on a disk, and on an object store."""
PROBE = ".probe"
"""The folder in which a cluster's nodes show that they share the storage."""


class Store:
    """A folder that trials, teachers and sweeps live in.

    Args:
        uri: a local (or shared) path, or a URI (``s3://bucket/kd``, ``gs://...``, ``az://...``).

    Attributes:
        may_write: called before anything is changed, to refuse it; a pickled copy has none.
        look_every: seconds between two looks at what another process may write; each is a request there.

    Raises:
        UserError: a URI of another kind, or with a key in it; or the extra 'object-store' is not installed.

    Example:
        >>> store = Store("results")
        >>> store.write_json("notes/one.json", {"lr": 0.1})
        >>> store.read_json("notes/one.json"), store.names("notes")
        ({'lr': 0.1}, ['one.json'])
    """

    def __init__(self, uri: str | Path) -> None:
        remote = ObjectURI.parse(str(uri))
        self._objects = None if remote is None else Objects(remote)
        self.may_write: Callable[[], None] | None = None
        self.is_local = remote is None
        self.look_every = LOOK_EVERY if remote is None else LOOK_FAR_EVERY
        if remote is None:
            local = urlparse(str(uri)).path if str(uri).startswith("file://") else str(uri)
            self.root = os.path.abspath(os.path.expanduser(local))
        self.uri = self.root if remote is None else str(remote)

    def __reduce__(self) -> Any:
        return Store, (self.uri,)

    def guarded(self, may_write: Callable[[], None]) -> Store:
        """The same store, which calls ``may_write`` before it changes anything; a pickled copy does not."""
        store = Store(self.uri)
        store.may_write = may_write
        return store

    def path(self, path: str = "") -> str:
        """The full path of something below the root; on an object store the URI, as messages show it."""
        if self._objects is not None:
            return self._objects.uri.shown(path) if path else self.uri
        return f"{self.root}/{path}".rstrip("/") if path else self.root

    def child(self, path: str) -> Store:
        """The store of a folder below this one."""
        store = Store(f"{self.root}/{path}" if self._objects is None else str(self._objects.uri.child(path)))
        store.may_write = self.may_write
        return store

    def for_ray(self, path: str) -> tuple[str, Any]:
        """A folder as Ray takes one: its path, and a pyarrow filesystem for an object store, else None."""
        if self._objects is None:
            return self.path(path), None
        from ray_kd.storage.ray_files import for_ray  # imports obstore, an extra

        return for_ray(self._objects, path)

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists."""
        return os.path.exists(self.path(path)) if self._objects is None else self._objects.exists(path)

    def read(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: no such file.
        """
        if self._objects is not None:
            return self._objects.read(path)
        try:
            return Path(self.path(path)).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(path) from error

    def write(self, path: str, data: bytes) -> None:
        """Write a file completely or not at all; missing folders are created.

        Raises:
            UserError: the disk is full, the folder is not writable, or a file lies where a folder is needed.
        """
        with self._writing(path):
            if self._objects is None:
                write_whole(self.path(path), data)
            else:
                self._objects.write(path, data)

    def append(self, path: str, record: dict[str, Any]) -> None:
        """Append one JSON line to a local file, completely or not at all."""
        full = self.path(path)
        with self._writing(path):
            try:
                append_whole(full, json_line(record))
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
        except (FileNotFoundError, DamagedFile):
            return None

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of the files and folders in a folder; empty if the folder does not exist."""
        if self._objects is not None:
            return self._objects.names(folder)
        try:
            return sorted(os.listdir(self.path(folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The bytes of every file in a folder and in those within it, by path below the root, sorted."""
        if self._objects is not None:
            return dict(sorted(self._objects.sizes(folder).items()))
        found = {}
        for place, _, names in os.walk(self.path(folder)):
            for name in names:
                full = os.path.join(place, name)
                with contextlib.suppress(FileNotFoundError):  # gone since the folder was listed
                    found[os.path.relpath(full, self.root)] = os.lstat(full).st_size
        return dict(sorted(found.items()))

    def delete(self, path: str) -> None:
        """Delete a file, if it exists."""
        self._permitted()
        if self._objects is None:
            Path(self.path(path)).unlink(missing_ok=True)
        else:
            self._objects.delete(path)

    def move(self, path: str, to: str) -> None:
        """Move a file to another path, replacing a file there."""
        with self._writing(to):
            if self._objects is None:
                os.makedirs(os.path.dirname(self.path(to)), exist_ok=True)
                os.replace(self.path(path), self.path(to))
            else:
                self._objects.copy(path, to)
                self._objects.delete(path)

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with everything below it, if it exists."""
        self._permitted()
        if self._objects is None:
            shutil.rmtree(self.path(folder), ignore_errors=True)
        else:
            self._objects.delete_tree(folder)

    def copy(self, path: str, to: str) -> None:
        """Give a file a second name, replacing a file of that name; on a local disk it takes no space."""
        with self._writing(to):
            if self._objects is not None:
                self._objects.copy(path, to)
                return
            Path(self.path(to)).unlink(missing_ok=True)
            try:
                os.link(self.path(path), self.path(to))
            except OSError:  # a disk without hard links
                shutil.copyfile(self.path(path), self.path(to))

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Create a file that must not exist yet; True if this call created it. A failed write leaves no file.

        ``data`` must be the caller's alone.
        """
        if self._objects is not None:
            with self._writing(path):
                return self._objects.create(path, data)
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

    def stamp(self, path: str) -> Stamp:
        """A file's content and version.

        Raises:
            FileNotFoundError: no such file.
        """
        if self._objects is not None:
            return self._objects.stamp(path)
        return self.read(path), self.modified(path)

    def replace(self, path: str, data: bytes, stamp: Stamp) -> bool:
        """Replace a file that still has this stamp; True if this call replaced it.

        On an object store this is one step. On a disk it is not, and callers must keep others away.
        ``data`` must be the caller's alone.
        """
        if self._objects is not None:
            with self._writing(path):
                return self._objects.replace(path, data, stamp[1])
        if self.stamp(path) != stamp:
            return False
        self.write(path, data)
        return True

    def touch(self, path: str) -> None:
        """Set the date of a file on a disk to now; this needs no free space."""
        os.utime(self.path(path))

    def modified(self, path: str) -> float:
        """When a file was last written, in seconds since the epoch."""
        if self._objects is None:
            return os.stat(self.path(path)).st_mtime
        return float(self._objects.info(path)["last_modified"].timestamp())

    def size(self, path: str) -> int:
        """The bytes of a file."""
        if self._objects is None:
            return os.stat(self.path(path)).st_size
        return int(self._objects.info(path)["size"])

    def _permitted(self) -> None:
        if self.may_write is not None:
            self.may_write()

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        """Within the block an error of the disk becomes one that says what to do."""
        self._permitted()
        try:
            yield
        except OSError as error:
            raise self.unwritable(path, error) from error

    def unwritable(self, path: str, error: OSError) -> UserError:
        """The error for a file that cannot be written; its message says what to do."""
        number, elsewhere = error.errno or 0, "choose another place with 'storage'."
        if self._objects is None:
            reason = f"cannot write {self.path(path)}: {error.strerror or error}"
        else:  # the error names the object
            reason = f"cannot write {error.strerror or error}"
        if number in FAULTS:
            return EnvironmentFault(f"{reason}. {FAULTS[number]} Or {elsewhere}")
        if isinstance(error, StorageError):
            return UserError(f"{reason}. Check the keys, the bucket and the region, or {elsewhere}")
        if number == errno.EACCES:
            return UserError(f"{reason}. Choose a folder you may write to with 'storage'.")
        if number in (errno.ENOTDIR, errno.EEXIST):
            return UserError(f"{reason}. A file lies where a folder is needed: {elsewhere}")
        return UserError(f"{reason}. C{elsewhere[1:]}")


def json_line(record: dict[str, Any]) -> bytes:
    """A record as one JSON line."""
    return (json.dumps(record, separators=(", ", ": ")) + "\n").encode()
