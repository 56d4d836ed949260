"""Samples of a user's own dataset: a PIL image, an array or a tensor, with its label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ray_kd.config.errors import UserError

CHANNELS = (1, 3, 4)
"""Numbers of channels: an array whose last dimension is one of these has its channels last."""
KNOWN = ("label", "mask", "boxes", "box_label")


def read_sample(item: Any, where: str, columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A sample as a mapping, its image a float tensor (C, H, W), its mask numbers.

    Args:
        columns: which parts of a mapping are read, and as what; None: all, by their own names.

    Raises:
        UserError: it is neither (image, label) nor a mapping, or its image or mask cannot be read.
    """
    if isinstance(item, Mapping):
        found = dict(item)
        if columns is not None:
            found = {columns[name]: value for name, value in found.items() if name in columns} or found
        if "image" not in found or not set(KNOWN) & found.keys():
            raise UserError(
                f"{where}: expected a mapping with image and label, mask, or boxes and box_label; it has "
                f"{', '.join(map(str, found)) or 'nothing'}."
            )
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        found = {"image": item[0], "label": item[1]}
    else:
        parts = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
        raise UserError(
            f"{where}: expected (image, label), or a mapping with image and label, mask, or boxes and "
            f"box_label; got {type(item).__name__}{parts}."
        )
    if "mask" in found and _is_pil(found["mask"]):
        found["mask"] = _mask_numbers(found["mask"], where)
    return {**found, "image": to_image(found["image"], where)}


def stack_column(values: list[Any], name: str, where: str, first: int = 0) -> Tensor:
    """What samples have of one kind, stacked.

    Raises:
        UserError: no numbers, or not of one shape; names the sample.
    """
    tensors = []
    for value in values:
        try:
            tensors.append(torch.as_tensor(value))
        except (TypeError, ValueError, RuntimeError):
            raise UserError(
                f"{where}: {name}: expected numbers, got {type(value).__name__} ({str(value)[:40]!r})."
            ) from None
    if name == "label":  # a class may come as [3]
        tensors = [tensor.flatten()[0] if tensor.numel() == 1 else tensor for tensor in tensors]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    for shape in shapes:
        if shape != shapes[0]:
            advice = (
                "Bring all images to one size and one number of channels"
                if name == "image"
                else (
                    "Fill all up to one length, box_label with -1"
                    if name.startswith("box")
                    else "All need one shape"
                )
            )
            raise UserError(
                f"{where}: {name}: samples of one batch have the shapes {shapes[0]} and {shape}. {advice}."
            )
    return torch.stack(tensors)


def to_image(image: Any, where: str) -> Tensor:
    """An image as a float tensor (C, H, W): bytes and 16 bits scaled to [0, 1], floats as they are.

    Raises:
        UserError: neither a PIL image nor an array nor a tensor; an unknown range or order of
            dimensions.
    """
    if _is_pil(image):
        image = _from_pil(image, where)
    if isinstance(image, np.ndarray):
        image = _from_array(image, where)
    if not isinstance(image, Tensor):
        stored = isinstance(image, Mapping) and image.keys() >= {"bytes", "path"}
        raise UserError(
            f"{where}: image: expected a tensor (C, H, W), an array or a PIL image, got "
            f"{type(image).__name__}."
            + (" Have it decoded: dataset.cast_column(NAME, datasets.Image())." if stored else "")
        )
    if image.dim() == 2:
        image = image.unsqueeze(0)
    if image.dim() != 3:
        raise UserError(f"{where}: image: expected (C, H, W), got the shape {tuple(image.shape)}.")
    if image.shape[2] in (3, 4) and image.shape[0] not in CHANNELS:
        raise UserError(
            f"{where}: image: a tensor has its channels first (C, H, W), and this one, {tuple(image.shape)}, "
            "seems to have them last: image.permute(2, 0, 1)."
        )
    return to_float(image, where)


def to_float(image: Tensor, where: str) -> Tensor:
    """An image of numbers whose range is known, as float32; bytes and 16 bits over their maximum."""
    if image.dtype == torch.float32:
        return image
    if image.is_floating_point() or image.dtype == torch.bool:
        return image.float()
    most = {torch.uint8: 255, torch.uint16: 65535}.get(image.dtype)
    if most is None:
        raise UserError(
            f"{where}: image: expected floats, or uint8 or uint16 (read over 255 and 65535); got "
            f"{image.dtype}, whose range is unknown: image.float() / maximum."
        )
    return image.float() / most


def _is_pil(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "PIL"


def _mask_numbers(mask: Any, where: str) -> np.ndarray:
    """The class of each pixel of a PIL image: of a palette its numbers, never its colours."""
    if mask.mode not in ("1", "L", "P", "I") and not mask.mode.startswith("I;16"):
        raise UserError(
            f"{where}: mask: expected the number of each pixel's class, got a PIL image of mode "
            f"'{mask.mode}', which holds colours or shares."
        )
    return np.array(mask).astype(np.int64)


def _from_array(image: np.ndarray, where: str) -> Tensor:
    if image.dtype.kind not in "bufi":
        raise UserError(f"{where}: image: expected an array of numbers, got one of {image.dtype}.")
    if image.ndim == 3 and image.shape[2] in CHANNELS:
        if image.shape[0] in CHANNELS:
            raise UserError(
                f"{where}: image: an array of shape {image.shape} may have its channels first or last; "
                "expected a tensor (C, H, W)."
            )
        image = image.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(image.astype(image.dtype.newbyteorder("="), copy=False)))


def _from_pil(image: Any, where: str) -> Tensor:
    from PIL import ImageOps

    mode = image.mode
    if mode in ("I", "F"):
        raise UserError(
            f"{where}: image: a PIL image of mode '{mode}' (32 bits) has no known range; expected a tensor "
            "of floats."
        )
    image = ImageOps.exif_transpose(image)
    if not mode.startswith("I;16") and mode not in ("L", "RGB"):
        image = image.convert("L" if mode == "1" else "RGB")
    values = np.array(image)
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    values = values.astype(np.uint16) if mode.startswith("I;16") else values
    return torch.from_numpy(np.ascontiguousarray(values))
