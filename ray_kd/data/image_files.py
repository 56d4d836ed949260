"""Decodes image and mask files: upright, with their full range; what cannot be read is refused by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from ray_kd.config.errors import UserError

# Pillow warns of what is dealt with here, and never says of which file.
warnings.filterwarnings("ignore", module=r"PIL\.")

ORIENTATION = 0x0112
"""EXIF's tag: how a file's rows have to be turned to stand upright, 1 (not at all) to 8."""

WHITE = 65535
"""White of 16 bits."""

EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
"""Pillow's modes that it turns into RGB without loss of range."""

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda rows: rows,
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: rows[::-1].swapaxes(0, 1),
    7: lambda rows: rows[::-1, ::-1].swapaxes(0, 1),
    8: lambda rows: rows[:, ::-1].swapaxes(0, 1),
}
"""By EXIF orientation: the rows (H, W, ...) of a file, upright."""


class OddFile(UserError):
    """A file that is not what a dataset needs; ``what`` is its row in the table of a scan."""

    what: ClassVar[str] = "an image that cannot be read"


class OddMask(OddFile):
    """A mask that does not fit its image, or its numbers the classes."""

    what: ClassVar[str] = "a mask that does not fit"


class OddBoxes(OddFile):
    """Boxes that do not fit their image."""

    what: ClassVar[str] = "boxes that do not fit"


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    if not span[0] < span[1]:
        raise ValueError(f"expected two numbers, black's below white's, got {list(span)}")
    return span


Span = Annotated[tuple[float, float], AfterValidator(_rising)]
"""The values of black and white."""


@dataclass(frozen=True)
class Picture:
    """What a file holds, upright.

    Attributes:
        values: of a picture a ``tv_tensors.Image`` (3, H, W), uint8, or float in [0, 1] where the file has
            more than 8 bits; of a mask its numbers (H, W), integers as wide as the file's.
        orientation: EXIF's, by which the file's rows were turned.
        mode, format: Pillow's words for the file.
    """

    values: Any
    orientation: int
    mode: str
    format: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[-2], self.values.shape[-1]

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width of the rows as they lie in the file."""
        height, width = self.size
        return (width, height) if self.orientation > 4 else (height, width)


def read_image(file: str, span: tuple[float, float] | None = None) -> Any:
    """An image file, upright, as a uint8 RGB ``tv_tensors.Image`` (3, H, W); as float in [0, 1] where it has
    more than 8 bits.

    Args:
        span: black and white where the file has more than 8 bits; None: 0 and 65535 for 16 bits, and
            what has no range of its own (32-bit integers, floats) is refused.

    Raises:
        UserError: it is missing, damaged or of a kind that is not read; names it.
    """
    return read_picture(file, span).values


def read_picture(file: str, span: tuple[float, float] | None = None) -> Picture:
    """The same, with what is known of the file."""
    return _opened(file, lambda image: _colours(image, file, span))


def remarks(file: str) -> list[str]:
    """What one should know of an image file that is read: an unusual kind, and what of it is left out."""
    from PIL import Image

    with Image.open(file) as image:
        found = []
        if image.mode not in ("RGB", "L"):
            wide = image.mode.startswith("I") or image.mode == "F"
            found.append(f"mode {image.mode}" + (", more than 8 bits" if wide else ""))
        ending, format = os.path.splitext(file)[1].lower(), image.format or ""
        expected = Image.registered_extensions().get(ending)
        if expected is not None and expected != format and {expected, format} != {"JPEG", "MPO"}:
            found.append(f"{format} called {ending}")
        if image.mode.endswith("A") or "transparency" in image.info:
            found.append("transparency, which is left out")
        if getattr(image, "n_frames", 1) > 1:
            found.append("several pictures, the first read")
        # Pillow would decode a whole PNG to look for EXIF behind its pixels.
        if (image.format != "PNG" or "exif" in image.info) and _orientation(image) != 1:
            found.append("turned upright, by EXIF")
    return found


def read_mask(file: str) -> Picture:
    """A file of class numbers, a palette's indices where it has one.

    Raises:
        UserError: as ``read_image``, or it holds something else than one whole number a pixel.
    """
    return _opened(file, lambda image: _numbers(image, file))


def stacked(images: list[Tensor]) -> Tensor:
    """Images of one size as one tensor; those of 8 bits as floats in [0, 1] where another has more bits."""
    if any(image.dtype != images[0].dtype for image in images):
        images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
    return torch.stack(images)


def shown(size: tuple[int, ...]) -> str:
    """Height and width as people say them."""
    return f"{size[1]} x {size[0]}"


def turned(boxes: np.ndarray, orientation: int, stored: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4), x1 y1 x2 y2, of a file's own rows, where the picture stands upright.

    Args:
        stored: height and width of the rows.
    """
    height, width = stored
    x1, y1, x2, y2 = boxes.T
    left, down = (width - x2, width - x1), (height - y2, height - y1)
    across, along = {
        1: ((x1, x2), (y1, y2)),
        2: (left, (y1, y2)),
        3: (left, down),
        4: ((x1, x2), down),
        5: ((y1, y2), (x1, x2)),
        6: (down, (x1, x2)),
        7: (down, left),
        8: ((y1, y2), left),
    }[orientation]
    return np.stack([across[0], along[0], across[1], along[1]], axis=1).astype(boxes.dtype)


def _opened(file: str, read: Callable[[Any], np.ndarray]) -> Picture:
    """A file's picture; ``read`` gives its values (H, W, ...) as they lie there."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if 0 in image.size:
                raise ValueError(f"it is {image.width} x {image.height} pixels large")
            _one_of(image, file)
            format, mode, orientation = image.format or "", image.mode, _orientation(image)
            values = read(image)
            if orientation != 1 and _orientation(image) == orientation:  # Pillow itself turns TIFFs
                values = np.ascontiguousarray(TURNS[orientation](values))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file raises anything in Pillow
        raise _unreadable(file, error) from error
    if values.ndim == 3:
        from torchvision import tv_tensors

        pixels = torch.from_numpy(values).permute(2, 0, 1)
        values = tv_tensors.Image((pixels if len(pixels) == 3 else pixels.expand(3, -1, -1)).contiguous())
    return Picture(values, orientation, mode, format)


def _unreadable(file: str, error: Exception) -> OddFile:
    """What is wrong with a file that Pillow does not read, and what to do."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return OddFile(f"'{file}' is missing.")
    if os.path.isdir(file):
        return OddFile(f"'{file}' is a folder; expected an image file. Move it, or rename it.")
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return OddFile(
            f"'{file}' is larger than the {most:,} pixels that are read at most ({error}). Save it smaller, "
            "cut it into tiles, or leave it out; networks see far less of it."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return OddFile(f"'{file}' cannot be opened ({error.strerror}).")
    reason = _looks_like(file) if isinstance(error, UnidentifiedImageError) else str(error) or repr(error)
    return OddFile(f"'{file}' cannot be read as an image ({reason}); replace the file.")


def _looks_like(file: str) -> str:
    """What a file is in which Pillow finds no image."""
    with open(file, "rb") as opened:
        begin = opened.read(64)
    if not begin:
        return "it is empty, 0 bytes"
    if begin.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: 'git lfs pull' fetches the image itself"
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, which a server sent instead of an image"
    return "no format of images that is known begins like this"


def _orientation(image: Any) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # what is broken here says nothing, as in every viewer
        return 1
    return found if found in TURNS else 1


def _one_of(image: Any, file: str) -> None:
    """Refuse a stack of pictures; of animations the first frame counts, and pyramids begin with the whole."""
    if image.format != "TIFF" or image.n_frames == 1:
        return
    size = image.size
    image.seek(1)
    same = image.size == size
    image.seek(0)
    if same:
        raise OddFile(
            f"'{file}' holds {image.n_frames} pictures of {size[0]} x {size[1]} pixels (a stack); expected "
            "one in each file. Save each by itself."
        )


def _colours(image: Any, file: str, span: tuple[float, float] | None) -> np.ndarray:
    """Rows of a picture: uint8 (H, W, 3), or float32 in [0, 1] (H, W, 1)."""
    if image.mode == "RGB":
        return np.array(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _wide(image, file, span)
    if image.mode not in EIGHT_BITS:
        raise OddFile(
            f"'{file}' is of the mode {image.mode}, which is not read; expected one of "
            f"{', '.join(EIGHT_BITS)}, or 16-bit grey. Save it as RGB."
        )
    if image.mode.endswith("A") or "transparency" in image.info:
        return _opaque(image, file)
    return np.array(image.convert("RGB"))


def _opaque(image: Any, file: str) -> np.ndarray:
    """The colours below a transparency, which is left out, as they lie in the file."""
    rows = np.array(image.convert("RGBA"))
    colours, alpha = rows[..., :3], rows[..., 3]
    if (alpha != alpha[0, 0]).any() and (colours == colours[0, 0]).all():
        raise OddFile(
            f"'{file}' shows its picture by transparency alone: all pixels have one colour, and transparency "
            "is left out. Lay it on a background, and save it as RGB."
        )
    return np.ascontiguousarray(colours)


def _wide(image: Any, file: str, span: tuple[float, float] | None) -> np.ndarray:
    """Values of more than 8 bits between black and white, float32 (H, W, 1)."""
    low, high = span or _range(image) or (0.0, 0.0)
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(262) == 0 and image.mode.startswith("I;16")
    values = np.array(image)
    if not np.isfinite(values).all():
        raise OddFile(
            f"'{file}' holds values that are no numbers (NaN, or infinite); expected finite ones. Replace "
            "them."
        )
    if low == high:
        kind = "floats" if image.mode == "F" else "integers of 32 bits"
        raise OddFile(
            f"'{file}' holds {kind} (mode {image.mode}), here from {values.min():g} to {values.max():g}, and "
            "nothing says which values are black and white; expected them as dataset.range=[black, white]."
        )
    shares = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
    return (1 - shares if white_is_zero else shares).astype(np.float32)[..., None]


def _range(image: Any) -> tuple[float, float] | None:
    """Black and white of an image of more than 8 bits, where its format fixes them."""
    if image.format == "FITS":
        return None
    if image.format == "TIFF" and image.mode.startswith("I;16"):
        return 0.0, 2.0 ** image.tag_v2.get(258, (16,))[0] - 1
    # Pillow brings PGM of any depth to 16 bits, and older versions call 16-bit PNG "I".
    known = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
    return (0.0, float(WHITE)) if known else None


def _numbers(image: Any, file: str) -> np.ndarray:
    """Rows of a mask (H, W), integers."""
    if image.format in ("JPEG", "MPO"):
        raise OddMask(
            f"'{file}' is a JPEG, which changes class numbers; expected a mask in a lossless format. Save it "
            "as PNG from the source."
        )
    if getattr(image, "n_frames", 1) > 1:
        raise OddMask(f"'{file}' holds {image.n_frames} pictures; expected one mask.")
    values = np.array(image)
    if values.ndim != 2:
        raise OddMask(
            f"'{file}': expected one class number a pixel, got an image of {values.shape[2]} channels (mode "
            f"{image.mode}): colours are no class numbers. Save each pixel's class as grey, or with a "
            "palette."
        )
    if values.dtype.kind == "f":
        raise OddMask(f"'{file}': expected one class number a pixel, got floats (mode {image.mode}).")
    return values.astype(np.uint8) if values.dtype == bool else values
