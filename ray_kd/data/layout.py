"""Where a dataset's files are expected, and the one message that says which are not there."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, NoReturn

from pydantic import Field

from ray_kd.config.beside import Folder
from ray_kd.config.errors import UserError
from ray_kd.config.screen import logger
from ray_kd.data.base import LabelOptions
from ray_kd.storage import Lock, Store

FEW = 100
"""Samples of validation below which the default share is warned of."""


class RootOptions(LabelOptions):
    """Options of datasets that lie in a folder and have a test set of their own."""

    root: Folder
    """The folder that holds it; no part of a run's identity."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training images kept for validation. 0: validation reads the test images, as published
    tables do, so that the best epoch is chosen on them; report the last one then."""

    places: ClassVar[tuple[str, ...]] = ("root", "download")


def require(name: str, root: str, needed: Sequence[str], tree: str, download: bool | None = None) -> None:
    """Check that files or folders below a root exist.

    Args:
        download: whether ``download`` was asked for; None: the dataset cannot be downloaded.
    """
    lacking = missing(root, needed)
    if lacking:
        what = "does not exist" if not Path(root).is_dir() else f"lacks {', '.join(lacking[:3])}"
        wrong(name, root, what, tree, download)


def wrong(name: str, root: str, what: str, tree: str, download: bool | None = None) -> NoReturn:
    """Raise the one message about a root that cannot be used."""
    fetch = ", or dataset.download=true to fetch it" if download is False else ""
    raise UserError(
        f"dataset {name}: root '{root}' {what}.\nExpected below it:\n{textwrap.indent(tree.strip(), '  ')}\n"
        f"Set dataset.root to the folder that holds this{fetch}. (A relative root is looked for beside the "
        "file that names it, then in the working directory.)"
    )


def missing(root: str, needed: Sequence[str]) -> list[str]:
    """Those of ``needed`` that are not below ``root``."""
    return [path for path in needed if not Path(root, path).exists()]


@cache
def say_once(name: str, what: str) -> None:
    """Tell the user what a dataset leaves out; a process that loads it again says it no second time."""
    logger(__name__).warning("dataset %s: %s", name, what)


def warn_of_few(name: str, options: RootOptions, held: int, total: int) -> tuple[str, ...]:
    """Tell the user once that the default share of validation leaves too few of all samples to choose by.

    Returns:
        what was told, for ``Dataset.notes``.
    """
    default = type(options).model_fields["validation"].default
    if held < FEW and options.validation == default:
        share = math.ceil(100 * FEW / total) / 100
        enough = f"{share:g} leaves {FEW} or more" if share <= 0.5 else "choose a larger one"
        text = (
            f"the default share of validation ({default:g}) leaves {held} samples: a difference of one is "
            f"{100 / held:.1f} points of accuracy, and the best epoch, searches and early stopping go by "
            f"them. dataset.validation sets the share: {enough}."
        )
        say_once(name, text)
        return (text,)
    return ()


def fetch(name: str, root: str, needed: Sequence[str], download: Callable[[], object]) -> None:
    """Download a dataset where something of it is missing; of several processes one does, others wait."""
    if not missing(root, needed):
        return
    Path(root).mkdir(parents=True, exist_ok=True)
    with Lock(Store(root), ".download.lock", what=f"the download of dataset {name}"):
        if missing(root, needed):
            try:
                download()
            except (OSError, RuntimeError) as error:
                raise UserError(
                    f"dataset {name}: download: true: fetching to '{root}' failed "
                    f"({str(error).splitlines()[0]}). Fetch it elsewhere and set dataset.root."
                ) from error
