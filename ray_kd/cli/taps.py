"""The table of ray-kd list models NAME --taps."""

from __future__ import annotations

from collections.abc import Iterable

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import MODELS
from ray_kd.config.screen import say, show
from ray_kd.config.yamlio import apply_overrides


def show_taps(kind: str | None, name: str | None, overrides: Iterable[str]) -> None:
    """Print a network's taps, and what images it is for.

    Args:
        kind: of the component, which has to be models.
        name: of a registered model.
        overrides: its options as key=value; ``size`` and ``channels`` are those of the images, 32 and 3.

    Raises:
        UserError: it is no model.
    """
    if kind != "models" or name is None:
        raise UserError("list --taps: expected a model: ray-kd list models NAME KEY=VALUE ... --taps.")
    from rich.table import Table
    from rich.text import Text

    from ray_kd.models.describe import images_of, tap_rows

    given = apply_overrides({"name": name, "size": 32, "channels": 3}, overrides)
    size, channels = given.pop("size"), given.pop("channels")
    height, width = (size, size) if isinstance(size, int) else size
    options = parse_component(MODELS, given)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "module", "shape (C x H x W)", "stride", "layout"):
        table.add_column(column)
    for row in tap_rows(options, (height, width), channels):
        table.add_row(*map(Text, row))
    show(table)
    say(f"\nfor images of {height} x {width} with {channels} channels (size=, channels=)")
    images = images_of(options)
    if images is not None:
        say(f"made for {images}, by its own configuration")
