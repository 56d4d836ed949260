"""What several verbs share."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ray_kd.config.errors import UserError
from ray_kd.config.names import printable
from ray_kd.config.object_uri import ObjectURI
from ray_kd.config.screen import say

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys to change: optimizer.lr=0.05", show_default=False),
]
StorageOption = Annotated[
    str | None, typer.Option("--storage", help="Where records lie: a path or a URI.", show_default=False)
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="A running Ray cluster (host:port or auto).",
        envvar="RAY_ADDRESS",
        show_default=False,
    ),
]


def shown(path: str | Path) -> str:
    """A path, relative to the current folder if it lies below; a URI stays as it is."""
    text = str(path)
    try:
        relative = text if ObjectURI.parse(text) else os.path.relpath(text)
    except ValueError:
        return text
    return text if relative.startswith("..") else relative


def typed(verb: str, *arguments: str, **options: str | None) -> str:
    """A command as the user types it; options that are None are left out."""
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return shlex.join(["ray-kd", verb, *arguments, *given])


def say_left_out(sentences: Iterable[str]) -> None:
    """Print which figures could not be drawn; the command then ends with exit code 1."""
    told = [f"ray-kd: {sentence}" for sentence in sentences]
    if told:
        say("\n".join(told), error=True)
        raise typer.Exit(1)


def builtin_file(name: str) -> Path:
    """A sweep or run file that ships with ray-kd."""
    package = Path(__file__).parents[1]
    inside = package / "_sweeps" / name
    return inside if inside.exists() else package.parent / "sweeps" / name


def find_file(file: str) -> str:
    """A file as it is typed; ``digits`` or ``runs/digits``, where no file has that name: one of ray-kd's own.

    Raises:
        UserError: there is no such file, and ray-kd ships one that is called so.
    """
    folder, name = builtin_file(""), file.removeprefix("sweeps/").removesuffix(".yaml")
    if Path(file).exists() or name not in {
        place.relative_to(folder).with_suffix("").as_posix() for place in folder.rglob("*.yaml")
    }:
        return file
    if name != file:
        raise UserError(
            f"cannot read '{file}': No such file. Did you mean '{name}', which comes with ray-kd?"
        )
    return str(builtin_file(f"{name}.yaml"))


class ProgressLine:
    """One line on standard error that is redrawn on a terminal, else a line every five seconds."""

    def __init__(self) -> None:
        self.terminal, self._open = sys.stderr.isatty(), False
        self.began = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for another text."""
        return time.monotonic() - self._last >= (0.2 if self.terminal else 5.0)

    def show(self, text: str) -> None:
        """Show a text."""
        self._last, self._open = time.monotonic(), self.terminal
        if self.terminal:
            say(f"{printable(text)[:78]:<78}", error=True, start="\r", end="")
        else:
            say(text.rstrip(), error=True)

    def end(self, last: str = "\n") -> None:
        """Leave the line, or clear it with ``last``."""
        if self._open:
            say(error=True, end=last)
            self._open = False
