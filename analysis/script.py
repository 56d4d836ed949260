"""What the scripts of this folder share: their arguments, and errors without a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from ray_kd.analysis.plot_style import Picture, left_out
from ray_kd.config.errors import UserError
from ray_kd.config.screen import say


def script_parser(description: str | None) -> argparse.ArgumentParser:
    """STORAGE [--sweep NAME] [--out DIR]; the help shows the script's docstring as it is."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("storage", metavar="STORAGE", help="directory or URI that holds runs/ and sweeps/")
    parser.add_argument("--sweep", metavar="NAME", help="name of a sweep in it")
    parser.add_argument("--out", metavar="DIR", help="where to write; default: beside the records")
    return parser


def say_left_out(pictures: Iterable[Picture]) -> None:
    """Say which figures could not be drawn; the script then ends with exit code 1."""
    told = [f"error: {sentence}" for sentence in left_out(pictures)]
    if told:
        say("\n".join(told), error=True)
        sys.exit(1)


def run(main: Callable[[], None]) -> None:
    """Call ``main``; a mistake of the user's is printed in one line, with exit code 2."""
    try:
        main()
    except UserError as error:
        say(f"error: {error}", error=True)
        sys.exit(2)
