"""Pickles, read without running anything that they name.

A pickle is a program: it may name any function of any module and have it called. Here it is carried out by a
machine that imports nothing. What a pickle names stays a name; the few names of ``CALLS`` stand for functions
of our own, which make plain values; every other object that a pickle would have made becomes an ``Unread``,
which keeps what was said about it and can do nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO


class DamagedError(ValueError):
    """A file is not what it should be; the message is the reason."""


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names; nothing is looked up by it."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Unread(dict[Any, Any]):
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


def _mapping(pairs: Any = ()) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, value in pairs.items() if isinstance(pairs, dict) else pairs:
        found[_key(name)] = value
    return found


def _default_mapping(factory: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return _mapping(pairs)


def _members(values: Any = ()) -> set[Any]:
    return set(map(_key, values))


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
    machine = _Machine(calls, persistent)
    try:
        for code, argument, _ in pickletools.genops(file):
            machine.step(code.name, argument)
        return machine.stack.pop()
    except DamagedError:
        raise
    except Exception as error:  # whatever a broken or hostile program trips over in the machine
        raise DamagedError("its pickle breaks off or makes no sense") from error


PUSHED = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    )
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
IGNORED = frozenset(("PROTO", "FRAME", "STOP", "READONLY_BUFFER"))


class _Machine:
    """A stack, the places of its marks, and what was memorised."""

    def __init__(self, calls: Calls, persistent: Callable[[Any], Any] | None) -> None:
        self.calls, self.persistent = calls, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, code: str, argument: Any) -> None:
        """Carry out one instruction."""
        if code in PUSHED:
            self.stack.append(argument)
        elif code in CONSTANTS:
            self.stack.append(CONSTANTS[code])
        elif code in EMPTY:
            self.stack.append(EMPTY[code]())
        elif code in IGNORED:
            return
        elif code in STEPS:
            STEPS[code](self, argument)
        else:
            raise DamagedError(f"its pickle asks for {code}, which files of weights have no use for")

    def above_mark(self) -> list[Any]:
        """Everything above the last mark, taken from the stack."""
        mark = self.marks.pop()
        found = self.stack[mark:]
        del self.stack[mark:]
        return found

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def top(self, count: int) -> tuple[Any, ...]:
        """So many values, taken from the stack."""
        if count > len(self.stack):
            raise DamagedError("its pickle takes more than it has put")
        found = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return found

    def call(self, made_of: Any, arguments: Any) -> Any:
        """What calling a name gives: a value of one of our own functions, or an Unread."""
        given = tuple(arguments) if isinstance(arguments, (tuple, list)) else ()
        ours = self.calls.get((made_of.module, made_of.name)) if isinstance(made_of, Name) else None
        return Unread(made_of, given) if ours is None else ours(*given)

    def extend(self, values: list[Any]) -> None:
        """Append to the list, or the kind of list, on top."""
        into = self.stack[-1]
        into = into.elements if isinstance(into, Unread) else into
        if isinstance(into, set):
            into.update(_members(values))
        elif isinstance(into, list):
            into.extend(values)
        else:
            raise DamagedError("its pickle appends to what is no list")

    def set_entries(self, pairs: list[Any]) -> None:
        """Set entries of the mapping on top."""
        into = self.stack[-1]
        if not isinstance(into, dict) or len(pairs) % 2:
            raise DamagedError("its pickle sets entries of what is no mapping")
        into.update(zip(map(_key, pairs[::2]), pairs[1::2], strict=True))

    def new(self, count: int) -> None:
        """An object of a class: NEWOBJ and NEWOBJ_EX, whose named arguments nobody needs."""
        made_of, arguments, *_ = self.top(count)
        self.stack.append(self.call(made_of, arguments))

    def build(self) -> None:
        """Give an object its state; only an Unread keeps it."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Unread):
            self.stack[-1].state = state

    def load(self, key: Any) -> None:
        """Push what the file keeps beside the pickle."""
        if self.persistent is None:
            raise DamagedError("its pickle needs something that is kept elsewhere")
        self.stack.append(self.persistent(key))

    def named(self, argument: str) -> Name:
        module, _, name = argument.partition(" ")
        return Name(module, name)

    def stack_name(self) -> None:
        module, name = self.top(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedError("its pickle names a class by what is no text")
        self.stack.append(Name(module, name))

    def instance(self, made_of: Any) -> None:
        """INST and OBJ of protocols 0 and 1, whose arguments lie above the mark."""
        arguments = self.above_mark()
        self.stack.append(self.call(made_of or arguments[0], arguments[0 if made_of else 1 :]))


def _key(key: Any) -> Any:
    """A key of a mapping or a member of a set: plain values as they are, others as something like nothing
    else, so that no file decides how long hashing takes."""
    return key if isinstance(key, (str, int, float, bytes, type(None))) else object()


def _listed(machine: _Machine, make: Callable[[list[Any]], Any]) -> None:
    machine.stack.append(make(machine.above_mark()))


def _reduce(machine: _Machine) -> None:
    made_of, arguments = machine.top(2)
    machine.stack.append(machine.call(made_of, arguments))


def _extension(machine: _Machine, number: Any) -> None:
    machine.stack.append(Name("copyreg", f"extension {number}"))


STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.above_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE": lambda machine, _: _listed(machine, tuple),
    "TUPLE1": lambda machine, _: machine.stack.append(machine.top(1)),
    "TUPLE2": lambda machine, _: machine.stack.append(machine.top(2)),
    "TUPLE3": lambda machine, _: machine.stack.append(machine.top(3)),
    "LIST": lambda machine, _: _listed(machine, list),
    "DICT": lambda machine, _: _listed(
        machine, lambda found: _mapping(zip(found[::2], found[1::2], strict=True))
    ),
    "FROZENSET": lambda machine, _: _listed(machine, _members),
    "APPEND": lambda machine, _: machine.extend(list(machine.top(1))),
    "APPENDS": lambda machine, _: machine.extend(machine.above_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.above_mark()),
    "SETITEM": lambda machine, _: machine.set_entries(list(machine.top(2))),
    "SETITEMS": lambda machine, _: machine.set_entries(machine.above_mark()),
    "GET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "PUT": lambda machine, place: machine.memo.update({place: machine.stack[-1]}),
    "BINPUT": lambda machine, place: machine.memo.update({place: machine.stack[-1]}),
    "LONG_BINPUT": lambda machine, place: machine.memo.update({place: machine.stack[-1]}),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    "GLOBAL": lambda machine, text: machine.stack.append(machine.named(text)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_name(),
    "REDUCE": lambda machine, _: _reduce(machine),
    "NEWOBJ": lambda machine, _: machine.new(2),
    "NEWOBJ_EX": lambda machine, _: machine.new(3),
    "INST": lambda machine, text: machine.instance(machine.named(text)),
    "OBJ": lambda machine, _: machine.instance(None),
    "BUILD": lambda machine, _: machine.build(),
    "EXT1": _extension,
    "EXT2": _extension,
    "EXT4": _extension,
    "PERSID": lambda machine, key: machine.load(key),
    "BINPERSID": lambda machine, _: machine.load(machine.stack.pop()),
}
"""What each instruction does; those that are not listed are refused."""
