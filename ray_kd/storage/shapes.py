"""What the JSON files of a storage hold, by which every reader tells a damaged file from a whole one.

A file is written by this project, but a person, a disk or another version may have changed it. Readers ask
``Store.read_json`` (or ``find_json``) for one of these shapes, and rely on the types that it names. Keys that
it does not name may hold anything.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, Required

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # comes with pydantic, which needs it in Python 3.11

Number = int | float
Words = list[str]


class Weights(TypedDict, total=False):
    """The metrics of weights in a summary."""

    epoch: int | None
    val: dict[str, Any] | None
    test: dict[str, Any] | None


class Summary(TypedDict, total=False):
    """summary.json: how a run ended."""

    identity: str
    name: str
    status: Required[Literal["finished", "failed", "stopped"]]
    reason: str | None
    epochs: int | None
    steps: int | None
    seconds: Number | None
    started: str | None
    monitor: str | None
    mode: str | None
    parameters: int | None
    last: Weights | None
    best: Weights | None


class RunData(TypedDict, total=False):
    """dataset.json: what a run reads."""

    classes: Required[int]
    class_names: Required[Words | None]
    image: Required[list[int]]
    notes: Words


class Sizes(TypedDict):
    """For which classes and channels the networks of ``Objects`` were built."""

    classes: int
    channels: int


class Objects(TypedDict, total=False):
    """objects.json: the user's objects and code in a run, each described by a mapping."""

    size: Sizes
    student: dict[str, Any]
    dataset: dict[str, Any]


class Entry(TypedDict, total=False):
    """An entry of a sweep's ledger."""

    identity: Required[str]
    cell: str
    seed: int | None
    phase: str
    status: str
    reason: str | None
    seconds: Number | None
    error: str | None


class LeftOut(TypedDict):
    """A node that a sweep left out, in nodes.json."""

    node: str
    reasons: Words


class PlannedTrial(TypedDict, total=False):
    """A trial in plan.json."""

    identity: Required[str]
    cell: Required[str]
    seed: int | None
    phase: str | None
    task: str | None
    axes: dict[str, Any] | None
    overrides: dict[str, Any] | None
    candidate: int | None
    teachers: Words | None


class Chance(TypedDict, total=False):
    """What the seeds of some cells redraw, in plan.json."""

    vary: Required[Words]
    fixed: dict[str, str]
    overlap: Required[Number | None]
    cells: Required[Words]


class Plan(TypedDict, total=False):
    """plan.json: the trials of a sweep."""

    name: str
    baseline: str | None
    metric: str | None
    mode: Required[Literal["max", "min"]]
    cells: Words | None
    chance: list[Chance] | None
    repeats: Words | None
    trials: Required[list[PlannedTrial]]
    teachers: Words | None
    notes: Words | None


class Sizing(TypedDict):
    """How looks were chosen, in design.json."""

    pilot: int
    most: int
    power: Number
    spread: Number | None
    earlier: bool


class Family(TypedDict, total=False):
    """Strategies that were declared together, in design.json."""

    declared: Required[str]
    task: Required[str]
    metric: Required[str]
    looks: Required[list[int]]
    margin: Required[Number | None]
    unit: Required[Number]
    seeds: Required[list[int]]
    references: Required[dict[str, str | None]]
    cells: Required[dict[str, str | None]]
    begun: bool
    overlap: Number
    sizing: Sizing | None


class Design(TypedDict):
    """design.json: what a sweep declared."""

    families: list[Family]
    current: dict[str, int]


class StoredTargets(TypedDict, total=False):
    """store.json: the teacher, data and views of stored targets."""

    identity: Required[dict[str, Any]]
    teacher: Required[str]
    weights: Required[str]


class Column(TypedDict):
    """How a column of stored targets is encoded."""

    shape: list[int]
    precision: str
    top_k: int | None
    kind: str


class StoredGroup(TypedDict):
    """group.json: columns that were computed together."""

    format: int
    split: str
    samples: int
    ids: str
    rows: int
    columns: dict[str, Column]
    made_by: dict[str, Any]


class StoredShard(TypedDict):
    """The note beside a shard's Parquet file."""

    rows: int
    bytes: int
    sha256: str


class MappedColumn(TypedDict, total=False):
    """The note beside a node's copy of a column."""

    rows: Required[int]
    nbytes: Required[int]


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def misfit(shape: Any, value: Any) -> str | None:
    """The first place where a JSON value is not of a shape, and why; None: it is.

    >>> misfit(MappedColumn, {"rows": 3, "nbytes": "8"})
    "'nbytes': expected a valid integer, got '8'"
    """
    try:
        _adapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in found["loc"] if part not in ("int", "float"))
        if found["type"] == "missing":
            return f"'{place}' is missing"
        said = found["msg"].replace("Input should be", "expected").replace("a valid dictionary", "a mapping")
        text = f"{said}, got {str(found['input'])[:40]!r}" if not isinstance(found["input"], dict) else said
        return f"'{place}': {text}" if place else text
    return None
