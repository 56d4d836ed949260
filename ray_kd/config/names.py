"""Names that people give (cells, axes, labels of paths): what one may be, and how each surface shows it.

Every surface has one function here, through which all its names go; for HTML that is the standard library's
``escape``, and for a cell of a terminal's table ``rich.text.Text``.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST = 500
"""Characters of a name at most."""
IN_FIGURES = 80
"""Characters of a name in a figure; of a longer one its two ends are drawn."""
IN_WANDB = 128
"""Characters that W&B takes."""


def one_line(text: str) -> str:
    """A text on one line, without space at its ends."""
    return " ".join(text.split())


def print_plain(console: Any, text: str) -> None:
    """Print a sentence that holds names with rich: [nst] is no style there, and :smile: no picture."""
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def require_name(name: str, what: str, kept: str = "") -> None:
    """Refuse what cannot be shown, or not be told from nothing.

    Args:
        kept: signs that have a meaning of their own in such a name.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not one_line(name):
        raise ValueError(f"{what} needs a name")
    if len(name) > LONGEST:
        raise ValueError(f"{what}: expected a name of at most {LONGEST} characters, got {len(name)}")
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            code = f"U+{ord(character):04X}"
            raise ValueError(f"{what}: a name cannot hold the control character {code}, got {name!a}")
        if character in kept:
            raise ValueError(f"{what}: '{character}' is kept for lists of paths and stages, got '{name}'")


def require_distinct(names: Iterable[str], what: str) -> None:
    """Refuse names that read alike: equal once spaces and line ends count as one space.

    Raises:
        ValueError: names both.
    """
    seen: dict[str, str] = {}
    for name in names:
        shown = unicodedata.normalize("NFC", one_line(name))
        if shown in seen:
            alike = "" if seen[shown] == name else f" (written {seen[shown]!a} and {name!a})"
            raise ValueError(f"two {what} are called '{shown}'{alike}; every one needs a name of its own")
        seen[shown] = name


def markdown(text: str) -> str:
    """A text as Markdown shows it, in a table or outside: no markup, no HTML, no formula comes of it."""
    text = re.sub(r"([\\`*|$])", r"\\\1", one_line(text))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text)
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    return re.sub(r"~(?=~)|(?<=~)~|&(?=#?\w+;)", lambda found: f"\\{found[0]}", text)


def csv_text(value: object) -> object:
    """A value for a CSV file; text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def wandb_name(text: str) -> str:
    """A name that W&B takes."""
    return shortened(text, IN_WANDB)


def shortened(text: str, most: int = IN_FIGURES) -> str:
    """A text on one line; of a long one both ends, and four digits that tell it from others."""
    text = one_line(text)
    if len(text) <= most:
        return text
    mark = f" #{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    room = most - len(mark) - 3
    return f"{text[: room - room // 3]} \N{HORIZONTAL ELLIPSIS} {text[len(text) - room // 3 :]}{mark}"
