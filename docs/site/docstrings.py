"""How mkdocstrings reads the docstrings of ray-kd: ``Example:`` is a section of code, like ``Examples:``."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Sections(griffe.Extension):
    """Gives griffe the section names that it knows."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute that is read."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example::?$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
