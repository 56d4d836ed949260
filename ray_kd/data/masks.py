"""Masks of class numbers: a number that is neither a class nor ignored is an error with a likely cause."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ray_kd.data.image_files import TURNS, OddMask, Picture, shown
from ray_kd.outputs import IGNORE

UNKNOWN = -1
"""Stands in a table of classes at numbers that are none."""

SHOWN = 8
"""Values that a message names."""


def table_of(classes: dict[int, int]) -> Tensor:
    """The class, or IGNORE, of each number that a file may hold (256,), int16; UNKNOWN at all others."""
    table = torch.full((256,), UNKNOWN, dtype=torch.int16)
    for number, kind in classes.items():
        table[number] = kind
    return table


def class_numbers(file: str, mask: Picture, image: str, picture: Picture, table: Tensor) -> Tensor:
    """The classes of a mask, uint8 (H, W), as they lie over its picture.

    A mask without an orientation of its own is upright, as annotation tools show the picture, or, where its
    size says so, lies as the picture's rows do in its file and is turned with them.

    Raises:
        UserError: it has another size, or holds a number that is no class; names the file and the numbers.
    """
    values = mask.values
    if mask.size != picture.size:
        if mask.orientation != 1 or mask.size != picture.stored:
            raise OddMask(
                f"'{file}' is {shown(mask.size)} pixels large, its image '{image}' {shown(picture.size)}: "
                "one of the two was resized or turned. Bring both to one size; masks to the nearest pixel."
            )
        values = TURNS[picture.orientation](values)
    within = (values >= 0) & (values < len(table)) if values.dtype != np.uint8 else None
    if within is None or within.all():
        found = table[torch.from_numpy(np.ascontiguousarray(values, np.uint8)).long()]
        if not (found < 0).any():
            return found.to(torch.uint8)
    known = {number for number, kind in enumerate(table.tolist()) if kind != UNKNOWN}
    held = np.unique(values).tolist()
    odd = [value for value in held if value not in known]
    allowed = sorted(number for number in known if int(table[number]) != IGNORE)
    ignored = sorted(known - set(allowed))
    expected = _spans(allowed) + (f", and {_spans(ignored)} for what is ignored" if ignored else "")
    raise OddMask(
        f"'{file}' holds {_few(odd)}, which {'is' if len(odd) == 1 else 'are'} neither a class nor ignored "
        f"(all its values: {_few(held)}); expected {expected}. {_guess(held, odd, known)}"
    )


def _guess(held: list[int], odd: list[int], known: set[int]) -> str:
    """What most likely happened to a mask, and what to do."""
    greys = _greys()
    if set(held) <= greys.keys() and len(set(held) - {0, 255}):
        names = ", ".join(f"{value} is class {greys[value]}'s" for value in held if value not in (0, 255))
        return (
            f"These are the colours of VOC's masks turned into grey ({names}). Take the original files, or "
            "turn each colour into its class; convert('L') of a mask loses them."
        )
    if all(value % 257 == 0 for value in held) and max(held) > 255 and {v // 257 for v in held} <= known:
        return "These are class numbers times 257: 8 bits stretched to 16. Save the numbers themselves."
    if all(value % 256 == 0 for value in held) and max(held) > 255 and {v // 256 for v in held} <= known:
        return "These are class numbers times 256: 8 bits moved into 16. Save the numbers themselves."
    if {value - 1 for value in held if value != IGNORE} <= known and min(held) > 0:
        return "Are classes counted from 1? Here they count from 0."
    if len(held) > 2 * len(known) or len(odd) > 32:
        return (
            "So many values are a picture, or a mask that was blended while it was resized, or compressed "
            "with loss: resize masks to the nearest pixel, and save them as PNG."
        )
    if len(held) == 2 and held == [0, 255]:
        return "A mask of black and white: save its two classes as 0 and 1."
    return "Save each pixel's class number, and unlabelled pixels as the number that is ignored."


def _greys() -> dict[int, int]:
    """The class of VOC whose colour Pillow turns into each grey."""
    from PIL import Image

    colours = np.zeros((256, 3), np.uint8)  # the bits of a number, dealt out over red, green and blue
    for number, bit in np.ndindex(256, 8):
        colours[number, bit % 3] |= ((number >> bit) & 1) << (7 - bit // 3)
    row = Image.fromarray(colours[None])
    greys = np.array(row.convert("L"))[0].tolist()
    found = {greys[number]: number for number in reversed(range(21))}
    return {**found, greys[IGNORE]: IGNORE}


def _few(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return shown + (f" and {len(values) - SHOWN:,} more" if len(values) > SHOWN else "")


def _spans(values: list[int]) -> str:
    """Sorted numbers as stretches: 0 to 20, 255."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    shown = ([str(v) for v in part] if len(part) < 3 else [f"{part[0]} to {part[-1]}"] for part in parts)
    return ", ".join(text for part in shown for text in part)
