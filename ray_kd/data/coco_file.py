"""COCO's annotation files: read, and checked against themselves, each other and the folder of images."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_kd.config.errors import UserError
from ray_kd.data.dense_files import OBJECT
from ray_kd.data.listing import is_image, left_behind


@dataclass(frozen=True)
class Content:
    """What a file says.

    Attributes:
        names: of the images' files, in the order of the images' ids.
        sizes: their heights and widths (N, 2); 0: not known.
        objects: of each image (n,), of the type ``OBJECT``, their labels the ids of categories.
        categories: names by id; None: it has none.
        empty: annotations left out because their boxes have no extent.
    """

    names: list[str]
    sizes: np.ndarray
    objects: list[np.ndarray]
    categories: dict[int, str | None]
    empty: int


def read(file: str) -> Content:
    """A file of annotations.

    Raises:
        UserError: it cannot be read, or contradicts itself; names the file, and what in it by its id.
    """
    try:
        given = json.loads(Path(file).read_bytes())
        parts = {name: _entries(given, name) for name in ("categories", "images", "annotations")}
        categories = _categories(parts["categories"])
        images = _images(parts["images"])
        rows, empty = _objects(parts["annotations"], images, categories)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"'{file}' cannot be read as annotations of COCO: {error}.") from error
    order = sorted(images)
    return Content(
        names=[images[image][0] for image in order],
        sizes=np.array([images[image][1] for image in order], np.int64),
        objects=[np.array(rows.get(image, []), OBJECT) for image in order],
        categories=categories,
        empty=empty,
    )


def same_categories(
    file: str, own: Mapping[int, str | None], other: str, known: Mapping[int, str | None]
) -> None:
    """Check that two files mean the same by each category id."""
    what = f"'{file}': its categories are not those of '{other}'"
    odd = sorted(own.keys() ^ known.keys())
    if odd:
        where = "here" if odd[0] in own else "there"
        raise UserError(
            f"{what}: id {odd[0]} ({own.get(odd[0], known.get(odd[0]))}) is only {where}; expected the same "
            "ids and names in both. Write both files from one list of categories."
        )
    for number, name in sorted(own.items()):
        if name is not None and known[number] is not None and name != known[number]:
            swapped = set(own.values()) == set(known.values())
            raise UserError(
                f"{what}: id {number} is '{name}' here and '{known[number]}' "
                f"there{', the names are numbered in another order' if swapped else ''}; expected one name "
                "for each id. Write both files from one list of categories."
            )


def listed(folder: str, names: Iterable[str]) -> tuple[list[str], int]:
    """Names of files that a folder lacks, and how many images it has that are not named."""
    wanted: dict[str, set[str]] = {}
    for name in names:
        inner, base = os.path.split(name)
        wanted.setdefault(inner, set()).add(base)
    missing, others = [], 0
    for inner, bases in wanted.items():
        inner_folder = os.path.join(folder, inner)
        there = set(os.listdir(inner_folder)) if os.path.isdir(inner_folder) else set[str]()
        missing += [
            os.path.join(inner, base)
            for base in sorted(bases - there)
            # A system may take small letters for large ones.
            if not os.path.exists(os.path.join(inner_folder, base))
        ]
        others += sum(is_image(name) and not left_behind(name) for name in there - bases)
    return missing, others


def _entries(given: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(given, dict):
        raise ValueError(
            f"it holds a {type(given).__name__}; expected a mapping with images, annotations and categories"
        )
    found = given.get(name)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"'{name}' is {'not there' if found is None else 'no list of mappings'}")
    if not found and name != "annotations":
        raise ValueError(f"it lists no {'image' if name == 'images' else 'category'}")
    return found


def _categories(entries: list[dict[str, Any]]) -> dict[int, str | None]:
    found: dict[int, str | None] = {}
    for index, entry in enumerate(entries):
        number = _whole(entry.get("id"), f"the id of category {index} (counted from 0)")
        if number in found:
            raise ValueError(f"category id {number} is there twice")
        name = entry.get("name")
        if not isinstance(name, str | None):
            raise ValueError(f"category {number}: its name is {name!r}; expected text")
        found[number] = name
    return found


def _images(entries: list[dict[str, Any]]) -> dict[int, tuple[str, tuple[int, int]]]:
    """By id: the name of the file, and its height and width, 0 where the file does not give them."""
    found: dict[int, tuple[str, tuple[int, int]]] = {}
    files: dict[str, int] = {}
    for index, entry in enumerate(entries):
        number = _whole(entry.get("id"), f"the id of image {index} (counted from 0)")
        if number in found:
            raise ValueError(f"image id {number} is there twice")
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"image {number}: its file_name is {name!r}; expected the name of a file")
        if name in files:
            raise ValueError(f"images {files[name]} and {number} are the same file '{name}'")
        files[name] = number
        sides = (entry.get(side) for side in ("height", "width"))
        height, width = (0 if side is None else _whole(side, f"image {number}: a side") for side in sides)
        if height < 0 or width < 0:
            raise ValueError(f"image {number} is {width} x {height} pixels large; expected positive sides")
        found[number] = name, (height, width)
    return found


def _objects(
    entries: list[dict[str, Any]], images: Mapping[int, object], categories: Mapping[int, object]
) -> tuple[dict[int, list[Any]], int]:
    """By image, its objects as ``OBJECT`` has them; and how many have no extent."""
    rows: dict[int, list[Any]] = {}
    seen: set[int] = set()
    empty = 0
    for index, entry in enumerate(entries):
        number = index if entry.get("id") is None else _whole(entry["id"], f"the id of annotation {index}")
        if number in seen and "id" in entry:
            raise ValueError(f"annotation id {number} is there twice")
        seen.add(number)
        (x1, y1, x2, y2), *rest = _object(entry, number, images, categories)
        if x2 > x1 and y2 > y1:
            rows.setdefault(entry["image_id"], []).append(((x1, y1, x2, y2), *rest))
        else:
            empty += 1
    every = [side for found in rows.values() for row in found for side in row[0]]
    if every and max(every) <= 1 and any(side != int(side) for side in every):
        raise ValueError(
            "all boxes lie between 0 and 1, as shares of their images do; expected pixels: x, y, width, "
            "height"
        )
    return rows, empty


def _object(
    entry: dict[str, Any], number: int, images: Mapping[int, object], categories: Mapping[int, object]
) -> tuple[Any, ...]:
    image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if image not in images:
        raise ValueError(f"annotation {number}: its image_id {image!r} is none of 'images'{_text(image)}")
    if category not in categories:
        known = ", ".join(map(str, list(categories)[:10]))
        raise ValueError(
            f"annotation {number}: its category_id {category!r} is none of 'categories' "
            f"({known}){_text(category)}"
        )
    if type(box) is not list or len(box) != 4:
        raise ValueError(
            f"annotation {number}: its bbox is {'missing' if box is None else repr(box)[:60]}; expected x, "
            "y, width, height"
        )
    area, crowd = entry.get("area"), entry.get("iscrowd", 0)
    for value in box if area is None else (*box, area):
        if type(value) not in (int, float) or not math.isfinite(value):
            what = "bbox" if any(value is side for side in box) else "area"
            raise ValueError(f"annotation {number}: its {what} holds {value!r}; expected finite numbers")
    x, y, width, height = box
    if width < 0 or height < 0 or (area is not None and area < 0):
        raise ValueError(
            f"annotation {number}: its bbox {box} or its area {area} is negative; expected x, y, width, "
            "height"
        )
    if crowd not in (0, 1):
        raise ValueError(f"annotation {number}: its iscrowd is {crowd!r}; expected 0 or 1")
    area = width * height if area is None else area
    return (x, y, x + width, y + height), category, crowd, area, number


def _whole(value: Any, what: str) -> int:
    """A whole number."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    shown = "missing" if value is None else repr(value)[:40]
    raise ValueError(f"{what} is {shown}; expected a whole number{_text(value)}")


def _text(value: Any) -> str:
    return " (it is text, and ids are numbers)" if isinstance(value, str) else ""
