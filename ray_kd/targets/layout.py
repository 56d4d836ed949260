"""The files of stored targets.

::

    targets/<store>/store.json                   what the targets are of: dataset, views, teacher, task
    targets/<store>/<group>/group.json           which columns, how encoded; of which split
    targets/<store>/<group>/v000-p000.parquet    a shard: rows of one view
    targets/<store>/<group>/v000-p000.json       its rows and checksum, written after it

A group holds the columns that one precompute found missing: a later sweep that needs one more path adds a
group with that path's columns, and one with more views adds shards. A shard without its ``.json`` counts
as missing. No file is ever changed in place.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.storage import DamagedFile, Store, shapes
from ray_kd.targets.encoding import Encoding

FORMAT = 1
SHARD_BYTES = 1 << 26
"""About how many bytes of targets a shard holds."""


def digest(value: Any) -> str:
    """16 hexadecimal digits of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ids_digest(ids: Tensor) -> str:
    """16 hexadecimal digits of sample ids in their order."""
    return hashlib.sha256(ids.to("cpu", torch.int64).contiguous().numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Shard:
    """Consecutive samples under one view, written as one file."""

    view: int
    part: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Its file's name without the ending."""
        return f"v{self.view:03d}-p{self.part:03d}"


@dataclass(frozen=True)
class Group:
    """Columns that were computed together.

    Attributes:
        split: train, validation or test.
        samples: rows of each view.
        ids: digest of the split's sample ids.
        columns: how each is encoded, by name.
        rows: samples in a full shard.
        made_by: for each column the path's options and the entry of its target, so that it can be
            computed again; null for the teacher's predictions. Not part of the group's identity.
    """

    split: str
    samples: int
    ids: str
    columns: dict[str, Encoding]
    rows: int
    made_by: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, split: str, ids: Tensor, columns: dict[str, Encoding], made_by: dict[str, Any] | None = None
    ) -> Group:
        """A group of columns of a split, with shards of about ``SHARD_BYTES``."""
        row = 12 + sum(column.nbytes for column in columns.values())
        rows = max(1, SHARD_BYTES // row)
        return cls(split, len(ids), ids_digest(ids), dict(sorted(columns.items())), rows, made_by or {})

    @property
    def identity(self) -> str:
        """The name of its folder."""
        return digest({key: value for key, value in self.to_json().items() if key != "made_by"})

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: sample id (8), view (4), targets."""
        return 12 + sum(column.nbytes for column in self.columns.values())

    def shards(self, views: int) -> list[Shard]:
        """All shards of so many views."""
        starts = range(0, self.samples, self.rows)
        return [
            Shard(view, part, start, min(start + self.rows, self.samples))
            for view in range(views)
            for part, start in enumerate(starts)
        ]

    def to_json(self) -> dict[str, Any]:
        """As ``group.json`` holds it."""
        columns = {name: encoding.to_json() for name, encoding in self.columns.items()}
        return {
            "format": FORMAT,
            "split": self.split,
            "samples": self.samples,
            "ids": self.ids,
            "rows": self.rows,
            "columns": columns,
            "made_by": self.made_by,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Group:
        """The inverse of ``to_json``."""
        columns = {name: Encoding.from_json(entry) for name, entry in data["columns"].items()}
        return cls(data["split"], data["samples"], data["ids"], columns, data["rows"], data["made_by"])


class TargetStore:
    """The targets of one teacher on one dataset under one view policy.

    Args:
        about: dataset, views, teacher and task of the targets; see ``targets.compute.about``.
    """

    def __init__(self, store: Store, about: dict[str, Any]) -> None:
        self.about, self.identity = about, digest(about["identity"])
        self.folder = f"targets/{self.identity}"
        self.files = store.child(self.folder)
        self.root = store

    @classmethod
    def open(cls, store: Store, identity: str) -> TargetStore:
        """The store in the folder ``targets/<identity>``.

        Raises:
            UserError: the folder does not exist, or its ``store.json`` is damaged.
        """
        try:
            about = store.read_json(f"targets/{identity}/store.json", shapes.StoredTargets)
        except FileNotFoundError:
            known = ", ".join(store.names("targets")) or "none"
            raise UserError(
                f"no stored targets at {store.path(f'targets/{identity}')}. Known: {known}."
            ) from None
        found = cls(store, about)
        if found.identity != identity:
            raise UserError(
                f"{store.path(f'targets/{identity}/store.json')} is damaged: it describes {found.identity}."
            )
        return found

    def begin(self, weights: str) -> None:
        """Write ``store.json`` if it does not exist yet.

        Args:
            weights: digest of the teacher's weights.
        """
        if self.files.exists("store.json"):
            self.require(weights)
        else:
            self.files.write_json("store.json", {**self.about, "weights": weights})

    def require(self, weights: str) -> None:
        """Refuse targets of a teacher whose weights have changed since."""
        try:
            known = self.files.read_json("store.json", shapes.StoredTargets)["weights"]
        except DamagedFile:
            raise UserError(
                f"stored targets: {self.files.path('store.json')} is damaged, so it is unknown which teacher "
                f"computed the targets beside it. Delete the folder {self.files.path()}; the next run "
                "computes its targets again."
            ) from None
        if known != weights:
            raise UserError(
                f"stored targets: {self.files.path()} was computed by a teacher with weights {known}, and "
                f"the teacher '{self.about['teacher']}' has {weights} now: it was trained again. Delete that "
                "folder; the next run computes its targets again."
            )

    def groups(self) -> list[Group]:
        """Every group there is, in the order of their names."""
        found = []
        for name in self.files.names():
            group = None if "." in name or name == "lock" else self._group(name)
            if group is not None:
                found.append(group)
        return found

    def _group(self, name: str) -> Group | None:
        """The group of a folder; None if its ``group.json`` is missing or damaged (it is written again)."""
        found = self.files.find_json(f"{name}/group.json", shapes.StoredGroup)
        return None if found is None else Group.from_json(found)

    def add(self, group: Group) -> None:
        """Make a group's folder."""
        if self._group(group.identity) is None:
            self.files.write_json(f"{group.identity}/group.json", group.to_json())

    def missing(self, group: Group, views: int) -> list[Shard]:
        """The missing shards of the first ``views`` views; a file of another size counts as missing.

        Shards of as many rows weigh the same, so that one listing tells, and the note of one of them.
        """
        if self._group(group.identity) is None:
            return group.shards(views)  # without group.json it is unknown what the shards hold
        sizes, noted = self.files.sizes(group.identity), dict[int, int]()
        return [shard for shard in group.shards(views) if not self._whole(group, shard, sizes, noted)]

    def begun_views(self, group: Group) -> int:
        """How many views have at least one shard."""
        begun = (name[1:].partition("-")[0] for name in self.files.names(group.identity) if name[:1] == "v")
        return max((int(view) + 1 for view in begun), default=0)

    def complete_views(self, group: Group) -> int:
        """How many views, from the first on, have all their shards, judged by file names."""
        names, views = set(self.files.names(group.identity)), 0
        while True:
            shards = [shard for shard in group.shards(views + 1) if shard.view == views]
            if not all({f"{shard.name}.json", f"{shard.name}.parquet"} <= names for shard in shards):
                return views
            views += 1

    def _whole(self, group: Group, shard: Shard, sizes: dict[str, int], noted: dict[int, int]) -> bool:
        """Whether a shard is there; ``noted`` has the bytes of a whole one by its number of rows."""
        place, rows = f"{group.identity}/{shard.name}", shard.stop - shard.start
        size = sizes.get(f"{place}.parquet")
        if size is None or f"{place}.json" not in sizes:
            return False
        if size != noted.get(rows):
            note = self.files.find_json(f"{place}.json", shapes.StoredShard)
            if note is None or note["bytes"] != size:
                return False
            noted[rows] = size
        return True
