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
    """live: the teacher runs in every step; stored: its targets for every view are computed once."""
    precision: Precision = "float16"
    """Precision of stored targets; int8 has a scale for each sample and view."""
    precisions: dict[str, Precision] = Field(default_factory=dict)
    """Precision by a path's label, for paths that differ."""
    top_k: Count | None = None
    """Store only the k largest class log-probabilities, and the total of the others; None: store all."""
    read: Literal["mapped", "stream"] = "mapped"
    """How a run reads them: mapped: from a copy of all targets, which each machine makes once; stream: Ray
    Data reads each batch's targets and files from the shards, without a copy. Both give the same numbers."""
    held: Count = 8
    """stream: how many shards, of about 64 MB each, a reader keeps in memory."""
    cache: str | None = None
    """A folder on a local disk for this machine's memory-mapped copy; None: below the storage."""

    def essence(self) -> dict[str, Any]:
        """What the identity hashes; how targets are read changes no number and is left out."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"read", "held", "cache"})

    @property
    def streamed(self) -> bool:
        """Whether a run streams its targets from the shards."""
        return self.source == "stored" and self.read == "stream"


def _source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


TargetsField = Annotated[Targets, BeforeValidator(_source)]
