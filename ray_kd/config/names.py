"""Names that users give (cells, axes, labels of paths): which are valid, and how each output shows them.

Each kind of output has one function here that all its names pass through; HTML has the standard library's
``escape``, and a cell of a terminal's table ``rich.text.Text``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST = 500
"""The most characters of a name."""
IN_FIGURES = 80
"""Characters of a name in a figure; of a longer name both ends are drawn."""
IN_WANDB = 128
"""The most characters that W&B accepts."""


def one_line(text: str) -> str:
    """A text on one line, without space at its ends."""
    return " ".join(text.split())


def print_plain(console: Any, text: str) -> None:
    """Print a sentence with rich in which [nst] is no style and :smile: no emoji."""
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def require_name(name: str, what: str, kept: str = "") -> None:
    """Refuse names that are empty or cannot be displayed."""
    if not one_line(name):
        raise ValueError(f"{what} needs a name")
    if len(name) > LONGEST:
        raise ValueError(f"{what}: expected a name of at most {LONGEST} characters, got {len(name)}")
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
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
    return re.sub(r"~(?=~)|(?<=~)~|&(?=#?\w+;)", lambda found: f"\\{found[0]}", text)


def csv_text(value: object) -> object:
    """A value for a CSV file; text that a spreadsheet would read as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


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
