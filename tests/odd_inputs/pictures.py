"""Odd pictures as people have them: each is written, and what is right to read from it is said."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Written = np.ndarray | str
"""The right pixels (H, W, 3) in [0, 1], or a pattern that the error matches."""

SEEN = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}
"""EXIF 2.32, tag 274: which side of the picture a file's row 0 shows, and which its column 0."""


def gradient(height: int, width: int) -> np.ndarray:
    """Smooth colours of which no turn looks like another, (H, W, 3) uint8."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 255 * rows / (height - 1), 255 * columns / (width - 1)
    return np.stack([red, green, (red + 2 * green) / 3], -1).round().astype(np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    """0 to 65535, (H, W) uint16."""
    return np.linspace(0, 65535, height * width).round().astype(np.uint16).reshape(height, width)


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The rows that a file of this orientation holds, from what EXIF says of its row and column 0."""
    row, column = SEEN[orientation]
    across = upright if row in "tb" else upright.swapaxes(0, 1)
    across = across[::-1] if row in "br" else across
    return np.ascontiguousarray(across[:, ::-1] if column in "rb" else across)


def exif(orientation: int) -> Image.Exif:
    """EXIF that says no more than the orientation."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, -1)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height: int, width: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of any depth, its rows without filter."""
    size = len(rows) // height
    lines = b"".join(b"\0" + rows[place : place + size] for place in range(0, len(rows), size))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(height: int, width: int, bits: int, rows: bytes, white: int = 1) -> bytes:
    """A grey TIFF of any depth; ``white`` 0: its white is 0."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, white), (273, 8)]
    tags += [(277, 1), (278, height), (279, len(rows))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    begin = struct.pack("<2sHI", b"II", 42, 8 + len(rows))
    return begin + rows + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def saved(make: Callable[[int, int], tuple[Any, Any]], format: str, **how: Any) -> Callable[..., Written]:
    """Written by Pillow: ``make`` gives the image and what is right."""

    def write(file: Path, height: int, width: int) -> Written:
        image, right = make(height, width)
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(file, format, **how)
        return right if isinstance(right, str) else np.asarray(right, np.float64)

    return write


def raw(make: Callable[[int, int], tuple[bytes, Any]]) -> Callable[..., Written]:
    """Written byte by byte."""

    def write(file: Path, height: int, width: int) -> Written:
        data, right = make(height, width)
        file.write_bytes(data)
        return right if isinstance(right, str) else np.asarray(right, np.float64)

    return write


def turned(orientation: int, format: str, **how: Any) -> Callable[..., Written]:
    """The gradient with an orientation."""

    def make(height: int, width: int) -> tuple[Any, Any]:
        right = gradient(height, width)
        return as_stored(right, orientation), right / 255

    return saved(make, format, exif=exif(orientation), **how)


def _palette(height: int, width: int) -> tuple[Any, Any]:
    numbers = np.arange(height * width).reshape(height, width) % 256
    image = Image.fromarray(numbers.astype(np.uint8))
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    return image, np.stack([numbers, 255 - numbers, np.full_like(numbers, 7)], -1) / 255


def _with_alpha(height: int, width: int) -> tuple[Any, Any]:
    colours = gradient(height, width)
    alpha = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width, 1)
    return np.concatenate([colours, alpha], -1), colours / 255


def _grey_with_alpha(height: int, width: int) -> tuple[Any, Any]:
    colours, right = _with_alpha(height, width)
    bands = [Image.fromarray(np.ascontiguousarray(colours[..., channel])) for channel in (1, 3)]
    return Image.merge("LA", bands), grey(right[..., 1])


def _one_bit(height: int, width: int) -> tuple[Any, Any]:
    bits = np.indices((height, width)).sum(0) % 3 == 0
    return Image.fromarray(bits), grey(bits)


def _cmyk(height: int, width: int) -> tuple[Any, Any]:
    right = gradient(height, width)
    return Image.fromarray(right).convert("CMYK"), right / 255


def _shape(height: int, width: int) -> tuple[Any, Any]:
    image = _with_alpha(height, width)[0]
    image[..., :3] = 0
    return image, r"transparency alone"


def _floats(height: int, width: int) -> tuple[Any, Any]:
    return ramp(height, width).astype(np.float32) / 100, r"floats \(mode F\), here from 0 to 655.35.*range"


def _integers(height: int, width: int) -> tuple[Any, Any]:
    return ramp(height, width).astype(np.int32) * 10, r"integers of 32 bits \(mode I\).*range"


def _twelve_bits(height: int, width: int) -> tuple[bytes, Any]:
    values = ramp(height, width) >> 4
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12) | pairs[:, 1]
    rows = b"".join(int(value).to_bytes(3, "big") for value in packed)
    return tiff(height, width, 12, rows), grey(values / 4095)


def _white_is_zero(height: int, width: int) -> tuple[bytes, Any]:
    values = ramp(height, width)
    return tiff(height, width, 16, values.astype("<u2").tobytes(), white=0), grey(1 - values / 65535)


def _pgm(most: int) -> Callable[[int, int], tuple[bytes, Any]]:
    def make(height: int, width: int) -> tuple[bytes, Any]:
        values = (ramp(height, width).astype(np.int64) * most // 65535).astype(">u2")
        return b"P5 %d %d %d\n" % (width, height, most) + values.tobytes(), grey(values / most)

    return make


def _deep_colours(height: int, width: int) -> tuple[bytes, Any]:
    values = np.stack([ramp(height, width), ramp(height, width)[::-1], ramp(height, width)[:, ::-1]], -1)
    return png(height, width, 16, 2, values.astype(">u2").tobytes()), values / 65535


def _deep_grey_with_alpha(height: int, width: int) -> tuple[bytes, Any]:
    values = np.stack([ramp(height, width), ramp(height, width)[::-1]], -1)
    return png(height, width, 16, 4, values.astype(">u2").tobytes()), grey(values[..., 0] / 65535)


def _bomb(height: int, width: int) -> tuple[bytes, Any]:
    header = struct.pack(">IIBBBBB", 20000, 10000, 8, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    return data, r"178,956,970 pixels.*(smaller|tiles)"


def _cut(format: str) -> Callable[[int, int], tuple[bytes, Any]]:
    def make(height: int, width: int) -> tuple[bytes, Any]:
        data = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data, format)
        return data.getvalue()[: len(data.getvalue()) // 2], r"cannot be read as an image"

    return make


def _frames(format: str, right: str | None = None) -> Callable[..., Written]:
    def write(file: Path, height: int, width: int) -> Written:
        numbers, shown = _palette(height, width)
        first = numbers.convert("RGB") if format in ("PNG", "TIFF") else numbers
        other = Image.fromarray(np.zeros((height, width, 3), np.uint8))
        first.save(file, format, save_all=True, append_images=[other])
        return right or shown

    return write


def _broken_exif(file: Path, height: int, width: int) -> Written:
    right = gradient(height, width)
    Image.fromarray(right).save(file, "PNG", exif=b"Exif\0\0no exif at all")
    return right / 255


def _folder(file: Path, height: int, width: int) -> Written:
    file.mkdir()
    return r"is a folder"


def _missing(file: Path, height: int, width: int) -> Written:
    return r"is missing"


def _deep_and_turned(height: int, width: int) -> tuple[Any, Any]:
    right = ramp(height, width)
    return as_stored(right, 6), grey(right / 65535)


def _plain(height: int, width: int) -> tuple[Any, Any]:
    return gradient(height, width), gradient(height, width) / 255


def _two_photos(file: Path, height: int, width: int) -> Written:
    """As phones write them: the photo, and a preview behind it."""
    other = Image.new("RGB", (8, 8))
    how: dict[str, Any] = {"quality": 100, "subsampling": 0}
    Image.fromarray(gradient(height, width)).save(file, "MPO", save_all=True, append_images=[other], **how)
    return gradient(height, width) / 255


ODD: dict[str, Callable[[Path, int, int], Written]] = {
    # Pillow #1108, #2574: convert("RGB") clips 16 bits at 255
    "16-bit grey PNG": saved(lambda h, w: (ramp(h, w), grey(ramp(h, w) / 65535)), "PNG"),
    "16-bit grey TIFF": saved(lambda h, w: (ramp(h, w), grey(ramp(h, w) / 65535)), "TIFF"),
    "16-bit grey TIFF, big-endian": saved(
        lambda h, w: (Image.fromarray(ramp(h, w).astype(">u2")), grey(ramp(h, w) / 65535)), "TIFF"
    ),
    "16-bit grey TIFF whose white is 0": raw(_white_is_zero),
    "16-bit grey JPEG 2000": saved(
        lambda h, w: (ramp(h, w), grey(ramp(h, w) / 65535)), "JPEG2000", irreversible=False
    ),
    "16-bit grey PNG, turned": saved(_deep_and_turned, "PNG", exif=exif(6)),
    "12-bit grey TIFF": raw(_twelve_bits),
    "16-bit PGM": raw(_pgm(65535)),
    "10-bit PGM": raw(_pgm(1023)),
    "16-bit colour PNG": raw(_deep_colours),
    "16-bit grey PNG with alpha": raw(_deep_grey_with_alpha),
    "32-bit integers": saved(_integers, "TIFF"),
    "floats": saved(_floats, "TIFF"),
    "palette": saved(_palette, "PNG"),
    "palette, transparent": saved(_palette, "PNG", transparency=bytes(range(256))),
    "palette, one colour transparent": saved(_palette, "GIF", transparency=3),
    "RGBA": saved(_with_alpha, "PNG"),
    "RGBA, its picture in alpha alone": saved(_shape, "PNG"),
    "LA": saved(_grey_with_alpha, "PNG"),
    "1 bit": saved(_one_bit, "PNG"),
    "CMYK JPEG": saved(_cmyk, "JPEG", quality=100, subsampling=0),
    "LAB": saved(lambda h, w: (Image.new("LAB", (w, h)), r"mode LAB, which is not read"), "TIFF"),
    "PNG called otherwise": saved(_plain, "PNG"),
    "BMP called otherwise": saved(_plain, "BMP"),
    "lossless WebP": saved(_plain, "WEBP", lossless=True),
    # detectron2 #262, tensorflow #49834, datumaro #1756: EXIF orientation ignored
    **{f"JPEG, orientation {which}": turned(which, "JPEG", quality=95, subsampling=0) for which in SEEN},
    "PNG, orientation 6": turned(6, "PNG"),
    "PNG, orientation 7": turned(7, "PNG"),
    "WebP, orientation 8": turned(8, "WEBP", lossless=True),
    "TIFF, orientation 6": turned(6, "TIFF"),
    "TIFF, orientation 3": turned(3, "TIFF"),
    "EXIF that is none": _broken_exif,
    # MONAILabel #1230, RT-DETR #337: the error does not say which file
    "200 megapixels": raw(_bomb),
    "JPEG cut in half": raw(_cut("JPEG")),
    "PNG cut in half": raw(_cut("PNG")),
    "empty file": raw(lambda h, w: (b"", r"empty, 0 bytes")),
    "no pixels": raw(
        lambda h, w: (
            png(1, 1, 8, 0, b"\0").replace(struct.pack(">II", 1, 1), struct.pack(">II", 0, 1)),
            r"cannot be read as an image",
        )
    ),
    "web page": raw(lambda h, w: (b"<!DOCTYPE html><html>404</html>", r"it is a web page")),
    "pointer of Git LFS": raw(
        lambda h, w: (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"pointer of Git LFS")
    ),
    "folder": _folder,
    "missing": _missing,
    "animated GIF": _frames("GIF"),
    "animated PNG": _frames("PNG"),
    "JPEG, a photo and its preview": _two_photos,
    "TIFF of several pages": _frames("TIFF", r"holds 2 pictures.*stack"),
}
