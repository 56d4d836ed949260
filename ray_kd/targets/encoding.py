"""How a target's numbers become bytes: float32, float16, int8 with a scale, or the top k classes.

Each row (a sample under a view) is encoded by itself into a fixed number of bytes, so that rows can be
read in any order. Decoding runs where the bytes are, on a GPU too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["float32", "float16", "int8"]
Kind = Literal["float", "integer", "boolean"]

BYTES = {"float32": 4, "float16": 2, "int8": 1}
HALF_MAX = 65504.0
"""The largest float16; larger numbers are stored as this one."""


@dataclass(frozen=True)
class Encoding:
    """How one column of a store is encoded.

    Attributes:
        shape: of one row's target.
        precision: of the stored numbers. int8: round(x / s) with s = max|x| / 127 of the row, s in float32.
        top_k: store only the k largest log-probabilities (float16) of logits (K,) and their classes (int32);
            the remaining probability is spread equally over the other classes.
        kind: dtype of the target; numbers that are no floats are stored exactly (below 2^24).
    """

    shape: tuple[int, ...]
    precision: Precision = "float16"
    top_k: int | None = None
    kind: Kind = "float"

    @classmethod
    def of(cls, values: Tensor, precision: Precision, top_k: int | None = None) -> Encoding:
        """The encoding of a target with rows like those of ``values`` (B, ...)."""
        shape = tuple(values.shape[1:])
        if values.dtype == torch.bool:
            return cls(shape, "float32", None, "boolean")
        if not values.dtype.is_floating_point:
            return cls(shape, "float32", None, "integer")
        if top_k is not None and len(shape) == 1 and top_k < shape[0]:
            return cls(shape, "float16", top_k)
        return cls(shape, precision)

    @property
    def word(self) -> str:
        """The encoding in one word, for names and tables."""
        return f"top{self.top_k}" if self.top_k is not None else self.precision

    @property
    def numbers(self) -> int:
        """Numbers in a row before encoding."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a row, a multiple of 4, so that numbers of 4 bytes can be read in place."""
        if self.top_k is not None:
            size = self.top_k * 6
        else:
            size = self.numbers * BYTES[self.precision] + (4 if self.precision == "int8" else 0)
        return -(-size // 4) * 4

    def encode(self, values: Tensor) -> Tensor:
        """Rows (B, *shape) as bytes, uint8 (B, nbytes), on the CPU."""
        rows = values.detach().to("cpu", torch.float32).reshape(len(values), -1)
        if self.top_k is not None:
            parts = _top_k(rows, self.top_k)
        elif self.precision == "int8":
            scale = rows.abs().amax(dim=1, keepdim=True) / 127
            steps = (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)).round()
            parts = [scale, steps.clamp_(-127, 127).to(torch.int8)]
        elif self.precision == "float16":
            parts = [rows.clamp(-HALF_MAX, HALF_MAX).half()]
        else:
            parts = [rows]
        found = torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=1)
        return torch.nn.functional.pad(found, (0, self.nbytes - found.shape[1]))

    def decode(self, stored: Tensor) -> Tensor:
        """The inverse of ``encode`` up to precision: uint8 (B, nbytes) as (B, *shape), floats as float32."""
        if self.top_k is not None:
            rows = self._spread(stored)
        elif self.precision == "int8":
            scale = stored[:, :4].contiguous().view(torch.float32)
            rows = stored[:, 4 : 4 + self.numbers].contiguous().view(torch.int8) * scale
        else:
            size = self.numbers * BYTES[self.precision]
            kind = torch.float16 if self.precision == "float16" else torch.float32
            rows = stored[:, :size].contiguous().view(kind).float()
        rows = rows.view(len(stored), *self.shape)
        return rows if self.kind == "float" else rows.bool() if self.kind == "boolean" else rows.long()

    def _spread(self, stored: Tensor) -> Tensor:
        k, classes = self.top_k or 0, self.numbers
        place = stored[:, : 4 * k].contiguous().view(torch.int32).long()
        known = stored[:, 4 * k : 6 * k].contiguous().view(torch.float16).float()
        rest = (1 - known.exp().sum(dim=1, keepdim=True)).clamp_min(1e-8) / max(1, classes - k)
        return rest.log().expand(-1, classes).scatter(1, place, known)

    def error(self, values: Tensor) -> Tensor:
        """The largest difference (B,) that encoding may make to rows (B, *shape), rounding included."""
        rows = values.detach().float().reshape(len(values), -1)
        largest = rows.abs().amax(dim=1)
        if self.precision == "int8":
            return largest / 127 * 0.501
        return largest * (2.0**-11 if self.precision == "float16" else 2.0**-24) + 2.0**-24

    def to_json(self) -> dict[str, Any]:
        """The encoding as JSON, as ``group.json`` holds it."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Encoding:
        """The inverse of ``to_json``."""
        return cls(tuple(data["shape"]), data["precision"], data["top_k"], data["kind"])


def _top_k(rows: Tensor, k: int) -> list[Tensor]:
    values, place = rows.log_softmax(dim=1).topk(k, dim=1)
    return [place.to(torch.int32), values.half()]
