"""How mkdocstrings reads the docstrings of ray-kd.

``Example:`` is a section of code, like ``Examples:``. A page that is named (docs/models.md) is a link.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Gives griffe what it knows."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute that is read."""
        if obj.docstring:
            text = re.sub(r"^Example::?$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            # Pages of the reference lie in a folder of their own.
            obj.docstring.value = re.sub(r"\bdocs/(\w+)\.md\b", r"[docs/\1.md](../\1.md)", text)
