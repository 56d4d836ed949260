"""A network that is no model of the spec, but a module that ``distill`` is handed."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from ray_kd.config.errors import UserError
from ray_kd.config.options import OwnOptions
from ray_kd.config.registry import MODELS


class OwnModelOptions(OwnOptions):
    """What a record says of it; nobody has to write any of it."""

    object: str | None = None
    """Its class."""
    parameters: int | None = None
    """How many numbers it trains or could train."""
    shapes: str | None = None
    """A digest of the names and shapes of its tensors."""

    def described(self) -> str:
        return "" if self.object is None else f"{self.object}, {self.parameters or 0:,} parameters"


@MODELS.register("own", source="your own code")
class OwnModel(nn.Module):
    """A module of your own, which distill(student=...) or distill(teacher=...) is handed in Python.

    What a file leaves out is this; no command can train it. ``objects.json`` of the run describes it.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "detection")
    Options = OwnModelOptions

    def __init__(self, options: OwnModelOptions, *rest: Any) -> None:
        what = f" ({options.described()})" if options.object is not None else ""
        raise UserError(
            f"model 'own'{what}: a module of your own, which no file can build; in Python "
            "distill(spec, student=...) is handed it."
        )
