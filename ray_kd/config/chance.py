"""What the seeds of a sweep redraw: the sources of chance of a result, each by a key of its own in the run.

An interval over seeds covers only what the seeds redraw. Redrawing the student's initialisation alone hides
most of the variance of a benchmark, and makes differences look surer than they are (Bouthillier et al., MLSys
2021, arXiv 2103.03098).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ray_kd.config.errors import UserError, unknown

if TYPE_CHECKING:
    from ray_kd.config.spec import RunSpec
    from ray_kd.config.teacher import Teacher

Source = Literal["student", "teacher", "labels", "split", "views"]
SOURCES: tuple[Source, ...] = get_args(Source)
DEFAULT: tuple[Source, ...] = ("student", "teacher", "labels")


def sources(value: Any) -> tuple[Source, ...]:
    """The sources that a file lists, in the order of ``SOURCES``.

    Raises:
        ValueError: no list, an empty one, an unknown source, or one that stands twice.
    """
    given = list(value) if isinstance(value, (list, tuple)) else []
    if not given:
        raise ValueError(f"expected a list of at least one of {', '.join(SOURCES)}, got {value!r}")
    for source in given:
        if source not in SOURCES:
            raise ValueError(str(unknown("source", str(source), SOURCES)).rstrip("."))
        if given.count(source) > 1:
            raise ValueError(f"expected each source once, got '{source}' twice")
    return tuple(source for source in SOURCES if source in given)


def redrawn(own: int, seed: int, source: Source) -> int:
    """The key of a source for one seed of a sweep.

    Seed 0 keeps the file's own key, so that its runs are those of the file alone. Every other seed has 31
    bits of a hash of (source, own key, seed): with sums, two teachers of keys 0 and 1 would share draws.
    """
    if seed == 0:
        return own
    text = f"{source}/{own}/{seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def redraw(spec: RunSpec, seed: int, vary: Collection[Source]) -> RunSpec:
    """The run with the keys of the sources in ``vary`` as this seed has them; the others are the file's own.

    A teacher's own subset of labels and its views change only if ``teacher`` varies too, so that without it
    every seed has the same teacher. Where ``split`` varies, teachers train on the split of their students:
    otherwise they would have seen the samples that test.
    """
    changes: dict[str, Any] = {"seed": seed} if "student" in vary else {}
    reasons = fixed(spec, vary)
    data: dict[str, Any] = {}
    if "split" in vary and "split" not in reasons:
        data["seed"] = redrawn(spec.dataset.seed, seed, "split")  # type: ignore[attr-defined]
    if "labels" in vary and "labels" not in reasons:
        data["label_seed"] = redrawn(_label_key(spec), seed, "labels") if seed else _label_seed(spec)
    if data:
        changes["dataset"] = spec.dataset.model_copy(update=data)
    if "views" in vary and "views" not in reasons:
        changes["views"] = _views(spec, seed)
    if spec.teachers and {"teacher", "split"} & set(vary):
        changes["teachers"] = {
            name: _teacher(spec, teacher, seed, vary) for name, teacher in spec.teachers.items()
        }
    return spec.model_copy(update=changes)


def fixed(spec: RunSpec, vary: Collection[Source]) -> dict[Source, str]:
    """The sources in ``vary`` that cannot be redrawn in this run, each with the reason."""
    found: dict[Source, str] = {}
    needed = [spec.teachers[name] for name in spec.all_teachers()]
    ready = [teacher.weights for teacher in needed if teacher.weights not in (None, "initial")]
    if not needed:
        found["teacher"] = "there is none"
    elif ready:
        names = ", ".join(dict.fromkeys(Path(str(weights)).name for weights in ready))
        found["teacher"] = f"its weights are given: {names}"
    if not hasattr(spec.dataset, "label_seed"):
        found["labels"] = f"{spec.dataset.component_name} does not choose labels"
    elif getattr(spec.dataset, "labels", None) is None:
        found["labels"] = "all labels are used"
    if _overlap(spec) is None:
        found["split"] = f"the splits of {spec.dataset.component_name} are given"
    if spec.views.component_name == "none":
        found["views"] = "images are shown as they are"
    return {source: why for source, why in found.items() if source in vary}


def _teacher(spec: RunSpec, teacher: Teacher, seed: int, vary: Collection[Source]) -> Teacher:
    changes: dict[str, Any] = {}
    own = dict(teacher.dataset)
    if "split" in vary and "seed" in own:
        own["seed"] = redrawn(own["seed"], seed, "split")
    if "teacher" in vary:
        changes["seed"] = redrawn(teacher.seed, seed, "teacher")
        if "labels" in vary and own.get("labels") is not None and seed:
            key = own.get("label_seed")
            own["label_seed"] = redrawn(_label_key(spec) if key is None else key, seed, "labels")
        if "views" in vary and teacher.views.component_name != "none":
            changes["views"] = _views(teacher, seed)
    return teacher.model_copy(update={**changes, "dataset": own})


def _views(of: RunSpec | Teacher, seed: int) -> Any:
    return of.views.model_copy(update={"seed": redrawn(of.views.seed, seed, "views")})


def _label_seed(spec: RunSpec) -> int | None:
    return getattr(spec.dataset, "label_seed", None)


def _label_key(spec: RunSpec) -> int:
    """What keys a run's choice of labels."""
    own = _label_seed(spec)
    return int(getattr(spec.dataset, "seed", 0)) if own is None else own


def _overlap(spec: RunSpec) -> float | None:
    overlap = getattr(spec.dataset, "overlap", None)
    found: float | None = None if overlap is None else overlap()
    return found


@dataclass(frozen=True)
class Chance:
    """What the seeds of some cells redraw.

    Attributes:
        fixed: the sources of ``vary`` that cannot be redrawn in them, with the reason.
        overlap: with ``split``: samples held out for each sample that trains; see ``statistics.intervals``.
    """

    vary: tuple[Source, ...]
    fixed: dict[Source, str]
    overlap: float
    cells: tuple[str, ...]


def chances(cells: Iterable[tuple[str, RunSpec, tuple[Source, ...]]]) -> list[dict[str, Any]]:
    """What plan.json says of it: an entry for all cells that redraw the same.

    Args:
        cells: each cell once, with any of its runs and what its seeds redraw.
    """
    groups: dict[str, Chance] = {}
    for cell, spec, vary in cells:
        reasons = fixed(spec, vary)
        split = "split" in vary and "split" not in reasons
        one = Chance(vary, reasons, (_overlap(spec) or 0.0) if split else 0.0, ())
        known = groups.get(repr(one), one)
        groups[repr(one)] = Chance(one.vary, one.fixed, one.overlap, (*known.cells, cell))
    return [
        {**asdict(group), "vary": list(group.vary), "cells": list(group.cells)} for group in groups.values()
    ]


def own_sources(overrides: Mapping[str, Any], default: tuple[Source, ...]) -> tuple[Source, ...]:
    """What a cell's trials redraw: its own ``vary``, else the sweep's.

    Raises:
        UserError: as ``sources``.
    """
    if "vary" not in overrides:
        return default
    try:
        return sources(overrides["vary"])
    except ValueError as error:
        raise UserError(f"vary: {error}.") from None
