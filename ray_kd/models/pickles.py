"""Pickles, read without running anything that they name.

A pickle is a program: it may name any function of any module and have it called. Here Python's own unpickler
carries it out, but imports nothing. What a pickle names stays a name; the few names of ``CALLS`` stand for
functions of our own, which make plain values; every other object that a pickle would have made becomes an
``Unread``, which keeps what the pickle says about it and can do nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar


class DamagedError(ValueError):
    """A file is not what it should be; the message is the reason."""


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names; nothing is looked up by it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Entries(dict[Any, Any]):
    """A mapping that a pickle fills; see ``_key``."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_key(key), value)


class Members(set[Any]):
    """A set that a pickle fills; see ``_key``."""

    def update(self, *values: Any) -> None:
        super().update(*(map(_key, some) for some in values))


class Unread(Entries):
    """An object that was not made: the class, what it was to be called with, and what was put into it.

    Attributes:
        made_of: the class or function as the pickle names it.
        arguments: what it was to be called with.
        state: what was to be given to ``__setstate__`` or ``__dict__``.
        elements: what was appended or added; entries that were set are this mapping's own.
    """

    def __init__(self, made_of: Any, arguments: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.made_of = str(made_of) if isinstance(made_of, Name) else "an object"
        self.arguments = arguments
        self.state: Any = None
        self.elements: list[Any] = []

    def __repr__(self) -> str:
        return f"<{self.made_of}>"

    def append(self, value: Any) -> None:
        """Keep an element that the pickle appends."""
        self.elements.append(value)

    add = append


def _mapping(pairs: Any = ()) -> Entries:
    found = Entries()
    for name, value in pairs.items() if isinstance(pairs, dict) else pairs:
        found[name] = value
    return found


def _default_mapping(factory: Any = None, pairs: Any = ()) -> Entries:
    return _mapping(pairs)


def _members(values: Any = ()) -> Members:
    return Members(map(_key, values))


def _rebuilt(made_of: Any, base: Any = None, state: Any = None) -> Unread:
    """What protocols 0 and 1 write for an object, its content with it where it is a kind of dict or list."""
    found = Unread(made_of)
    if isinstance(state, dict):
        found.update(state)
    elif isinstance(state, list):
        found.elements += state
    return found


def _bytes(text: Any, coding: Any = "latin1") -> bytes:
    """Bytes as protocol 2 writes them."""
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise DamagedError("bytes in it cannot be read")
    return text.encode("latin-1")


Calls = Mapping[tuple[str, str], Callable[..., Any]]
CALLS: Calls = {
    ("collections", "OrderedDict"): _mapping,
    ("collections", "Counter"): _mapping,
    ("collections", "defaultdict"): _default_mapping,
    ("builtins", "dict"): _mapping,
    ("__builtin__", "dict"): _mapping,
    ("builtins", "list"): list,
    ("__builtin__", "list"): list,
    ("builtins", "set"): _members,
    ("__builtin__", "set"): _members,
    ("builtins", "frozenset"): _members,
    ("__builtin__", "frozenset"): _members,
    ("torch", "Size"): tuple,
    ("copyreg", "_reconstructor"): _rebuilt,
    ("copy_reg", "_reconstructor"): _rebuilt,
    ("_codecs", "encode"): _bytes,
}
"""The names that may be called, and the functions of ours that are called in their place."""


def read_pickle(file: BinaryIO, calls: Calls = CALLS, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object that one pickle describes; the file is left behind its end.

    Args:
        file: holds the pickle; others may follow.
        calls: the names that may be called, with what is called in their place.
        persistent: gives what the file keeps beside the pickle, by its id.

    Raises:
        DamagedError: the pickle breaks off, or makes no sense.
    """
    try:
        return _Reader(file, calls, persistent).load()
    except DamagedError:
        raise
    except Exception as error:  # whatever a broken or hostile program trips over in the unpickler
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise DamagedError(f"its pickle breaks off or makes no sense ({reason})") from error


class _Reader(pickle._Unpickler):
    """Python's own unpickler, whose steps that would look up, call or change something are replaced.

    It is the one written in Python: the one in C cannot be changed so far, and reserves as much memory as a
    file claims that it needs.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(self, file: BinaryIO, calls: Calls, persistent: Callable[[Any], Any] | None) -> None:
        super().__init__(file, encoding="latin1")
        self.calls, self.persistent = calls, persistent

    def find_class(self, module: str, name: str) -> Name:
        return Name(module, name)

    def get_extension(self, number: int) -> None:
        self.stack.append(Name("copyreg", f"extension {number}"))

    def persistent_load(self, pid: Any) -> Any:
        if self.persistent is None:
            raise DamagedError("its pickle needs something that is kept elsewhere")
        return self.persistent(pid)

    def call(self, made_of: Any, arguments: Any) -> Any:
        """What calling a name gives: a value of one of our own functions, or an Unread."""
        given = tuple(arguments) if isinstance(arguments, (tuple, list)) else ()
        ours = self.calls.get((made_of.module, made_of.name)) if isinstance(made_of, Name) else None
        return Unread(made_of, given) if ours is None else ours(*given)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def _new_with_names(self) -> None:
        self.stack.pop()  # the named arguments, which are not needed
        self._reduce()

    def _instance(self) -> None:
        made_of = Name(*(self.readline()[:-1].decode() for _ in range(2)))
        arguments = self.pop_mark()
        self.stack.append(self.call(made_of, arguments))

    def _object(self) -> None:
        made_of, *arguments = self.pop_mark()
        self.stack.append(self.call(made_of, arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Unread):
            self.stack[-1].state = state

    def _dict(self) -> None:
        items = self.pop_mark()
        self.stack.append(_mapping(zip(items[::2], items[1::2], strict=True)))

    def _frozen_set(self) -> None:
        members = self.pop_mark()
        self.stack.append(_members(members))

    def _byte_array(self) -> None:
        count = int.from_bytes(self.read(8), "little")
        self.stack.append(bytearray(self.read(count)))

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        ord(pickle.REDUCE): _reduce,
        ord(pickle.NEWOBJ): _reduce,
        ord(pickle.NEWOBJ_EX): _new_with_names,
        ord(pickle.INST): _instance,
        ord(pickle.OBJ): _object,
        ord(pickle.BUILD): _build,
        ord(pickle.EMPTY_DICT): lambda reader: reader.stack.append(Entries()),
        ord(pickle.DICT): _dict,
        ord(pickle.EMPTY_SET): lambda reader: reader.stack.append(Members()),
        ord(pickle.FROZENSET): _frozen_set,
        ord(pickle.BYTEARRAY8): _byte_array,
    }


def _key(key: Any) -> Any:
    """A key of a mapping or a member of a set: plain values as they are, others replaced by a new object,
    since a file could make hashing them take for ever."""
    return key if isinstance(key, (str, int, float, bytes, type(None))) else object()
