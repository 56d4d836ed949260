"""What people see on a screen: lines, tables, warnings. No text in them commands the terminal.

Reasons, file names and records of others may hold anything. So nothing of ray-kd prints or warns but through
here, which ``tests/test_architecture.py`` sees to.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ray_kd.config.names import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.segment import Segment


def say(text: object = "", error: bool = False, start: str = "", end: str = "\n") -> None:
    """Print a text.

    Args:
        error: on standard error, at once.
        start, end: the caller's own, which go out as they are, control characters included.
    """
    print(f"{start}{printable(str(text))}", end=end, file=sys.stderr if error else sys.stdout, flush=error)


def show(what: RenderableType, console: Console | None = None) -> None:
    """Print a text or a table with rich; [nst] in it is no style, and :smile: no emoji.

    Args:
        console: where; default: standard output.
    """
    from rich.console import Console

    console = console or Console(markup=False, emoji=False, highlight=False)  # of the cells of tables, too
    harmless = printable(what) if isinstance(what, str) else Harmless(what)
    console.print(harmless, markup=False, emoji=False, highlight=False, soft_wrap=isinstance(what, str))


class Harmless:
    """What rich can show, with every text in it printable; rich's own control of the terminal stays.

    A text that changes here is laid out as what it was, so its column may be too narrow for it.
    """

    def __init__(self, what: RenderableType) -> None:
        self.what = what

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.what, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement.get(console, options, self.what)


def logger(name: str) -> logging.Logger:
    """The logger of a module of ray-kd, whatever handles its messages."""
    found = logging.getLogger(name)
    found.addFilter(_make_printable)
    return found


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True
