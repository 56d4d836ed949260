"""Read the files of a run directory; any of them may be missing, still growing, or damaged."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import Any

import yaml

from ray_kd.analysis.reader import Folder, each
from ray_kd.storage import is_held, whole_summary

Row = dict[str, Any]

IN_TEST = 600.0
"""Seconds after its last epoch in which a run without a summary counts as running."""

_KEY = re.compile(r"^(?=[A-Za-z_]+:)", re.MULTILINE)
"""Where a top-level key of a recorded spec begins."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there


@dataclass(frozen=True)
class RunFiles:
    """The files of one run directory; what is missing is empty."""

    present: bool
    spec: Row
    """What runs have in common is one object in all of them: copy it before changing it."""
    environment: Row
    summary: Row | None
    epochs: list[Row]
    paths: list[Row]
    damaged: tuple[str, ...] = ()
    """Files that exist and cannot be read, or not in full."""
    at_work: bool = False
    """Whether a process is training it."""


NOTHING = RunFiles(False, {}, {}, None, [], [])


def read_runs(root: Folder, identities: Iterable[str], whole: bool = True) -> dict[str, RunFiles]:
    """The files of these runs, each read once.

    Args:
        whole: read every file; else of a run that has ended its summary alone.
    """
    identities = list(dict.fromkeys(identities))
    there = set(root.names("runs"))

    def read(identity: str) -> RunFiles:
        return _read(root.sub(f"runs/{identity}"), whole) if identity in there else NOTHING

    return dict(zip(identities, each(read, identities, root.threads), strict=True))


def _read(folder: Folder, whole: bool) -> RunFiles:
    if not whole and (ended := whole_summary(_value(folder.text("summary.json")))) is not None:
        return replace(NOTHING, present=True, summary=ended)
    held = is_held(folder.store, f"{folder.prefix}lock")
    # The summary after the lock: a run that ends in between is read as running.
    texts = {name: folder.text(name) for name in ("summary.json", "spec.yaml", "environment.json")}
    summary, environment = (_value(texts[name]) for name in ("summary.json", "environment.json"))
    summary, spec = whole_summary(summary), _parse_by_key(texts["spec.yaml"])
    found = {"summary.json": summary is not None, "spec.yaml": spec, "environment.json": environment}
    streams = {name: folder.stream(name) for name in ("epochs", "paths")}
    damaged = [name for name, good in found.items() if texts[name] is not None and not good]
    epochs = _latest(streams["epochs"][0], "epoch")
    return RunFiles(
        present=True,
        spec=spec,
        environment=environment if isinstance(environment, dict) else {},
        summary=summary,
        epochs=epochs,
        paths=_latest(streams["paths"][0], "epoch", "path"),
        damaged=(*damaged, *(f"{name}.jsonl" for name, (_, torn) in streams.items() if torn)),
        at_work=held or (summary is None and _in_test(folder, spec, epochs)),
    )


def _in_test(folder: Folder, spec: Row, epochs: list[Row]) -> bool:
    """Whether a run has just trained its last epoch: it evaluates on test data without holding its lock."""
    last = epochs[-1]["epoch"] if epochs else None
    if last is None or last != section(spec, "training").get("epochs"):
        return False
    file = "epochs.jsonl" if folder.store.is_local else f"epochs/{last:06d}.json"
    try:
        return time.time() - folder.store.modified(f"{folder.prefix}{file}") < IN_TEST
    except FileNotFoundError:
        return False


def _value(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None


def parse_spec(text: str | None) -> Row:
    """A recorded spec as plain data, no plug-in loaded; empty where it is missing or torn."""
    try:
        data = yaml.load(text or "", Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _parse_by_key(text: str | None) -> Row:
    """``parse_spec``, top-level key by key, each text once: the specs of a sweep differ in few keys."""
    first, *parts = _KEY.split(text or "")
    found = [_one_key(part) for part in parts]
    if first or None in found:  # not as ``RunSpec.to_yaml`` writes it
        return parse_spec(text)
    return dict(entry for entry in found if entry is not None)


@lru_cache(maxsize=8192)
def _one_key(text: str) -> tuple[str, Any] | None:
    """A key and its value; None if the text is anything else."""
    found = list(parse_spec(text).items())
    return found[0] if len(found) == 1 else None


def _latest(entries: list[Row], *keys: str) -> list[Row]:
    """The last of the entries of an epoch and path: a run resumed from before its last line repeats it."""
    wanted = set(keys)
    known = [entry for entry in entries if wanted <= entry.keys() and _is_count(entry["epoch"])]
    kept: dict[Any, Row] = {f"{entry['epoch']} {entry.get('path')}": entry for entry in known}
    return sorted(kept.values(), key=itemgetter("epoch"))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def incomplete(run: RunFiles) -> str | None:
    """What is missing from the record of a run that ended; None where nothing is."""
    if run.summary is None:
        return None
    wanted = set(range(1, int(number_in(run.summary.get("epochs")) or 0) + 1))
    have = {"epochs.jsonl": {entry["epoch"] for entry in run.epochs}}
    by_path: dict[str, set[int]] = {}
    for entry in run.paths:
        by_path.setdefault(str(entry["path"]), set()).add(entry["epoch"])
    fewest = min(by_path.values(), key=lambda epochs: len(epochs & wanted), default=None)
    if fewest is not None or active_paths(run.spec):
        have["paths.jsonl"] = fewest or set()
    lines = [
        f"{file} has {len(epochs & wanted)} of {len(wanted)} epochs"
        for file, epochs in have.items()
        if wanted - epochs
    ]
    said = [file for file in run.damaged if not any(line.startswith(file) for line in lines)]
    return "; ".join([*lines, *(f"{file} is damaged" for file in said)]) or None


def describe(spec: Row) -> Row:
    """The components that a resolved spec names; None where a damaged spec does not say."""
    active, aggregation = active_paths(spec), section(spec, "aggregation")
    harmful = ", ".join(path_label(path) for path in active if _is_harmful(path, spec))
    return {
        **{key: section(spec, key).get("name") for key in ("task", "dataset", "student")},
        "paths": ", ".join(path_label(path) for path in active) if spec else None,
        "aggregation": aggregation.get("name") if active else None,
        "granularity": aggregation.get("granularity") if active else None,
        "harmful": harmful if spec else None,
        **{f"{key}_options": _options(section(spec, key)) for key in ("student", "dataset")},
        "aggregation_options": _options(aggregation) if active else None,
        "planned_epochs": section(spec, "training").get("epochs"),
    }


def section(spec: Row, key: str) -> Row:
    """A mapping within a spec; empty where there is none."""
    found = spec.get(key)
    return found if isinstance(found, dict) else {}


def active_paths(spec: Row) -> list[Row]:
    """The paths of a spec whose weight is not 0."""
    listed = spec.get("paths")
    paths = [path for path in listed if isinstance(path, dict)] if isinstance(listed, list) else []
    return [path for path in paths if path.get("weight") != 0]


def path_label(path: Row) -> str:
    return str(path.get("label") or path.get("name"))


def _is_harmful(path: Row, spec: Row) -> bool:
    """Whether a path is harmful on purpose: its targets are corrupted, or its teacher is."""
    teachers = section(spec, "teachers")
    teacher = section(teachers, path.get("teacher") or next(iter(teachers), ""))
    labels = section(teacher, "training").get("labels", "given")
    return path.get("corrupt") is not None or teacher.get("weights") == "initial" or labels != "given"


def _options(component: Row | None) -> str | None:
    if not component:
        return None
    return json.dumps({key: value for key, value in component.items() if key != "name"}, sort_keys=True)


def number_in(value: Any) -> float | None:
    """A number as a float; None for anything else."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain else None
