"""Where the paths' targets come from, in a spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ray_kd.config.options import Strict

Count = Annotated[int, Field(ge=1)]
Precision = Literal["float32", "float16", "int8"]


class Targets(Strict):
    """Where the paths' targets come from; ``targets: stored`` is short for ``targets: {source: stored}``."""

    source: Literal["live", "stored"] = "live"
    """live: the teacher answers in every step; stored: its answers to every view are computed once."""
    precision: Precision = "float16"
    """Of stored targets; int8 keeps a scale for each sample and view."""
    precisions: dict[str, Precision] = Field(default_factory=dict)
    """By a path's label, where it differs."""
    top_k: Count | None = None
    """Of stored class logits keep the k largest alone, and the mass of the others; None: all."""
    read: Literal["mapped", "stream"] = "mapped"
    """How a run reads them: mapped: from a copy of all of them, that a machine makes once; stream: Ray Data
    brings each batch's targets and files out of the shards, and nothing is copied. The same numbers."""
    held: Count = 8
    """stream: how many shards, of about 64 MB each, a reader keeps in memory."""
    cache: str | None = None
    """A folder on a local disk for this machine's memory-mapped copy; None: below the storage."""

    def essence(self) -> dict[str, Any]:
        """What identity hashes; how they are read changes no number."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"read", "held", "cache"})

    @property
    def streamed(self) -> bool:
        """Whether a run reads its targets out of the shards."""
        return self.source == "stored" and self.read == "stream"


def _source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


TargetsField = Annotated[Targets, BeforeValidator(_source)]
