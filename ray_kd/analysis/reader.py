"""Read records through the storage, in either layout; they may still be growing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ray_kd.storage import Store, whole_lines

Item = TypeVar("Item")
Result = TypeVar("Result")


class Folder:
    """A folder of a storage; names below it are relative, with '/' between their parts.

    Unlike ``Store`` it accepts a directory that is being written: a file that does not exist yet reads as
    None, and so does JSON that is not complete.
    """

    def __init__(self, store: Store, prefix: str = "") -> None:
        self.store, self.prefix = store, prefix

    @classmethod
    def open(cls, where: str | Path | Store | Folder) -> Folder:
        """A path or URI, a store, or a folder as it is.

        Raises:
            UserError: a URI that no filesystem answers to.
        """
        if isinstance(where, Folder):
            return where
        return cls(where if isinstance(where, Store) else Store(where))

    @property
    def path(self) -> str:
        """The full path of the folder."""
        return self.store.path(self.prefix.rstrip("/"))

    @property
    def threads(self) -> int:
        """How many files to read at a time: several where each waits for a network."""
        return 1 if self.store.is_local else 16

    def sub(self, name: str) -> Folder:
        """The folder ``name`` below this one; it need not exist."""
        return Folder(self.store, f"{self.prefix}{name}/")

    def where(self, name: str) -> str:
        """The full path of ``name``."""
        return self.store.path(f"{self.prefix}{name}")

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder of that name is there."""
        return self.store.exists(f"{self.prefix}{name}".rstrip("/"))

    def names(self, name: str = "") -> list[str]:
        """Sorted names of what lies in the folder ``name``; empty if there is no such folder."""
        return self.store.names(f"{self.prefix}{name}".rstrip("/"))

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None if there is none."""
        try:
            return self.store.read(f"{self.prefix}{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def text(self, name: str) -> str | None:
        """The file as UTF-8 text; a torn last character becomes a replacement character."""
        content = self.read(name)
        return None if content is None else content.decode("utf-8", errors="replace")

    def json(self, name: str, shape: Any = Any) -> Any:
        """The JSON value of a file; None if the file is missing, is no JSON (yet), or not of this shape."""
        return self.store.find_json(f"{self.prefix}{name}", shape)

    def stream(self, name: str) -> tuple[list[dict[str, Any]], bool]:
        """The entries of a growing record, in either layout, and whether anything in it cannot be read.

        ``<name>.jsonl`` holds an entry in each line; a line that is no JSON (half written, the writer was
        killed) is passed over. ``<name>/<number>.json`` objects hold one entry, or a list of them.
        """
        entries, torn = whole_lines(self.read(f"{name}.jsonl") or b"")
        objects = [f"{name}/{base}" for base in self.names(name) if base.endswith(".json")]
        for value in each(self.json, objects, self.threads):
            listed = value if isinstance(value, list) else [value]
            entries += [entry for entry in listed if isinstance(entry, dict)]
            torn |= any(not isinstance(entry, dict) for entry in listed)
        return entries, torn

    def write(self, name: str, content: bytes | str) -> str:
        """Write a file whole, or not at all; returns its full path. Nothing in a text commands a terminal."""
        if isinstance(content, str):
            self.store.write_text(f"{self.prefix}{name}", content)
        else:
            self.store.write(f"{self.prefix}{name}", content)
        return self.where(name)


def each(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """``function`` of every item, in order, ``threads`` at a time."""
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
