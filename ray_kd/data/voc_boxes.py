"""VOC's annotations of objects: read, and checked against themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from ray_kd.config.errors import UserError, nearest
from ray_kd.data.dense_files import OBJECT, Annotations, BoxedImages
from ray_kd.data.files import Files

SIDES = ("xmin", "ymin", "xmax", "ymax")


def boxed(
    images: Files,
    annotations: Files,
    classes: Sequence[str],
    span: tuple[float, float] | None = None,
    outside: Literal["refuse", "clip"] = "refuse",
) -> BoxedImages:
    """Images with the objects of their annotations."""
    found, wrong = [], []
    for index in range(len(annotations)):
        try:
            found.append(_read(annotations[index], classes))
        except UserError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(wrong[0] + (f" {len(wrong) - 1:,} more annotations are wrong." if wrong[1:] else ""))
    sizes = np.array([size for _, size in found], np.int64).reshape(-1, 2)
    objects = [np.array(rows, OBJECT) for rows, _ in found]
    return BoxedImages(images, Annotations(annotations, "object", sizes, objects), span, outside)


def _read(file: str, classes: Sequence[str]) -> tuple[list[Any], tuple[int, int]]:
    """The objects of a file, and height and width of its picture; 0 where it does not say (as LabelImg
    sometimes does not)."""
    try:
        root = ElementTree.parse(file).getroot()
        objects = [_object(node, number, classes) for number, node in enumerate(root.iter("object"), start=1)]
        height, width = (
            int(_number(root.findtext(f"size/{side}") or "0", side)) for side in ("height", "width")
        )
        return objects, (height, width)
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing.") from error
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise UserError(
            f"'{file}' cannot be read as an annotation of VOC ({error}); replace or correct the file."
        ) from error


def _object(node: ElementTree.Element, number: int, classes: Sequence[str]) -> tuple[Any, ...]:
    """An object as ``OBJECT`` has it, what is difficult as a crowd; pixels counted from 0."""
    name, box = (node.findtext("name") or "").strip(), node.find("bndbox")
    if name not in classes:
        guess = nearest(name, classes)
        hint = f"; did you mean '{guess}'?" if guess else f"; expected one of {', '.join(classes)}"
        raise ValueError(f"object {number}: no class of VOC is called '{name}'{hint}")
    if box is None:
        raise ValueError(f"object {number} ({name}): an object without a bndbox")
    x1, y1, x2, y2 = (_number(box.findtext(side), f"object {number} ({name}): {side}") for side in SIDES)
    if x2 < x1 or y2 < y1:
        raise ValueError(
            f"object {number} ({name}): its box is inverted: xmin {x1:g} to xmax {x2:g}, ymin {y1:g} to ymax "
            f"{y2:g}; expected the smaller number first"
        )
    difficult = (node.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise ValueError(f"object {number} ({name}): difficult is '{difficult}'; expected 0 or 1")
    # VOC counts pixels from 1; a tool that counts from 0 writes 0 at the border, which stays there.
    x1, y1 = (value - 1 if value > 0 else value for value in (x1, y1))
    return (x1, y1, x2, y2), classes.index(name), difficult == "1", (x2 - x1) * (y2 - y1), number


def _number(text: str | None, what: str) -> float:
    try:
        value = float(text if text is not None else "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} is {'missing' if text is None else repr(text)}; expected a number")
    return value
