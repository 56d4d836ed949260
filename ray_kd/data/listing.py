"""Which files and folders are a dataset's: not what operating systems and editors leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ray_kd.config.errors import UserError

LEFT_BEHIND = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "lost+found",
    "$recycle.bin",
    "system volume information",
    "@eadir",
    "#recycle",
    "@recycle",
    "@__thumb",
    "__pycache__",
}
"""Names, in small letters, of what systems put into folders by themselves; what begins with a dot besides."""

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""How names of image files end, in small letters; torchvision's list."""


def left_behind(name: str) -> bool:
    """Whether a file or folder of this name was left behind by a system, and is no data."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(IMAGES)


def folders(folder: str | Path) -> list[str]:
    """The names of the folders in a folder, sorted."""
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not left_behind(entry.name)
    )


def files_below(folder: str | Path) -> Iterator[str]:
    """The paths of all files in a folder and in those within it, links followed, a folder once.

    In the order in which torchvision's ``ImageFolder`` lists them.
    """
    seen: set[str] = set()
    found = []
    for inner_folder, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(inner_folder)
        # A link to a folder above, or beside, would list its files again, or without end.
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not left_behind(name))
        if real not in seen:
            seen.add(real)
            found.append((inner_folder, sorted(name for name in names if not left_behind(name))))
    for inner_folder, names in sorted(found):
        yield from (os.path.join(inner_folder, name) for name in names)


def lines(file: str | Path) -> list[str]:
    """The lines of a text file that hold something, without what surrounds it.

    Windows' line ends, a byte order mark, and UTF-16 (which PowerShell's ``>`` writes) are read.
    """
    data = Path(file).read_bytes()
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{file}' is no text in UTF-8 ({error.reason}); save it as UTF-8.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
