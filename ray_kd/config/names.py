"""Texts that others wrote (names, errors, files, records): which names are valid, how outputs show them.

Each kind of output has one function that all such texts pass through: files have theirs here, screens in
``config.screen``. ``tests/test_architecture.py`` holds the code to it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from html import escape
from typing import Any

LONGEST = 500
"""The most characters of a name."""
IN_FIGURES = 80
"""Characters of a name in a figure; of a longer name both ends are drawn."""
IN_WANDB = 128
"""The most characters that W&B accepts."""


UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""Characters that command a terminal (its colours, its title), turn the order of others (so that a text looks
like another one), or are no UTF-8. Line feeds and tabs are not among them."""


def printable(text: str) -> str:
    r"""A text for a terminal or a file: what would command a terminal is written as in Python.

    Example:
        >>> printable("loss is \x1b[2J nan")
        'loss is \\x1b[2J nan'
    """
    return UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_in(value: Any) -> Any:
    """Mappings and lists as JSON and YAML have them, with every text in them printable."""
    if isinstance(value, dict):
        return {printable_in(key): printable_in(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [printable_in(entry) for entry in value]
    return printable(value) if isinstance(value, str) else value


def one_line(text: str) -> str:
    """A text on one line, without space at its ends."""
    return printable(" ".join(text.split()))


def require_name(name: str, what: str, kept: str = "") -> None:
    """Refuse names that are empty or cannot be displayed."""
    if not one_line(name):
        raise ValueError(f"{what} needs a name")
    if len(name) > LONGEST:
        raise ValueError(f"{what}: expected a name of at most {LONGEST} characters, got {len(name)}")
    for character in name:
        if UNSHOWN.match(character):
            code = f"U+{ord(character):04X}"
            raise ValueError(f"{what}: a name cannot hold the control character {code}, got {name!a}")
        if character in kept:
            raise ValueError(f"{what}: '{character}' is reserved for lists of paths and stages, got '{name}'")


def require_distinct(names: Iterable[str], what: str) -> None:
    """Refuse names that look the same: equal once any whitespace counts as one space."""
    seen: dict[str, str] = {}
    for name in names:
        shown = unicodedata.normalize("NFC", one_line(name))
        if shown in seen:
            alike = "" if seen[shown] == name else f" (written {seen[shown]!a} and {name!a})"
            raise ValueError(f"two {what} are called '{shown}'{alike}; each needs a different name")
        seen[shown] = name


def markdown(text: str) -> str:
    """A text escaped for Markdown, also in a table: it becomes no markup, HTML or formula."""
    text = re.sub(r"([\\`*|$])", r"\\\1", one_line(text))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    text = re.sub(r"^(?=#|>|[-+] |[-=]{2})", r"\\", text)  # what would begin a heading, a quotation or a list
    return re.sub(r"~(?=~)|(?<=~)~|&(?=#?\w+;)", lambda found: f"\\{found[0]}", text)


def html(text: str) -> str:
    """A text escaped for HTML, also in an attribute."""
    return escape(printable(text))


FORMULA = ("=", "+", "-", "@", "\t", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a formula begins with in a spreadsheet; some read the signs of East Asian width, too."""


def csv_text(value: object) -> object:
    """A value for a CSV file; text that a spreadsheet would read as a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.startswith(FORMULA) else printable(value)


def wandb_name(text: str) -> str:
    """A name that W&B accepts."""
    return shortened(text, IN_WANDB)


def shortened(text: str, most: int = IN_FIGURES) -> str:
    """A text on one line; a long one is cut to both ends and four digits of its hash."""
    text = one_line(text)
    if len(text) <= most:
        return text
    mark = f" #{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    room = most - len(mark) - 3
    return f"{text[: room - room // 3]} \N{HORIZONTAL ELLIPSIS} {text[len(text) - room // 3 :]}{mark}"
