"""What a storage weighs, and what of it can go without the loss of a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray_kd.config.errors import UserError, unknown
from ray_kd.config.words import clock
from ray_kd.storage.damage import whole_summary
from ray_kd.storage.disk import LEFT
from ray_kd.storage.leftovers import is_left
from ray_kd.storage.lock import Lock, is_held
from ray_kd.storage.shapes import Plan
from ray_kd.storage.store import PROBE, Store

MAPPED = "targets/mapped"
LEFT_BY_KILLS = "left by kills"


@dataclass(frozen=True)
class Removable:
    """Something that can go.

    Attributes:
        path: a file or folder below the storage.
        what: its kind, as ``kind_of`` calls it.
        size: its bytes.
        lock: the file of the lock that protects it; None: there is none.
        cost: what it takes to get it back.
    """

    path: str
    what: str
    size: int
    lock: str | None
    cost: str


def kind_of(path: str) -> str:
    """What a file of a storage is."""
    parts = path.split("/")
    if parts[-1].startswith(LEFT) or parts[0] == PROBE:
        return LEFT_BY_KILLS
    if parts[-1].startswith("predictions"):
        return "predictions"
    if parts[0] == "targets":
        return "mapped copies of targets" if path.startswith(f"{MAPPED}/") else "stored targets"
    if parts[0] == "sweeps":
        return "plans, tables, plots"
    if parts[0] != "runs":
        return "other files"
    inside = parts[2] if len(parts) > 3 else ""
    if inside in ("checkpoints", "fresh"):
        return "states" if inside == "checkpoints" else "replacements begun"
    return "weights" if path.endswith(".safetensors") else "records"


def removable(store: Store, sizes: dict[str, int], runs: Iterable[str] = ()) -> list[Removable]:
    """What can go: states of finished runs, replacements of them that nobody trains, copies of stored
    targets, and what kills left.

    Args:
        sizes: as ``store.sizes()`` gives them.
        runs: identities, or beginnings of them, of runs that no sweep needs, and that are to go as a whole.

    Raises:
        UserError: a run that is not there, or is part of a sweep.
    """
    found = [_run(store, identity, sizes) for identity in _named(store, runs)]
    gone = {item.path for item in found}
    for identity in store.names("runs"):
        if f"runs/{identity}" not in gone:
            found += _of_finished(store, f"runs/{identity}", sizes)
    for name in store.names(MAPPED):
        path = f"{MAPPED}/{name}"
        cost = "the next run that reads them copies them from the shards again"
        found.append(Removable(path, "mapped copies of targets", _weight(sizes, path), f"{path}/lock", cost))
    inside = tuple(f"{item.path}/" for item in found) or ("\0",)
    left = [
        path
        for path in sizes
        if kind_of(path) == LEFT_BY_KILLS and not path.startswith(inside) and is_left(store, path)
    ]
    found += [Removable(path, LEFT_BY_KILLS, sizes[path], None, "nothing") for path in left]
    return [item for item in found if item.size]


def remove(store: Store, item: Removable) -> bool:
    """Remove it, unless somebody is at work on it, or may be reading it; whether it is gone."""
    if item.path.startswith(f"{MAPPED}/") and at_work(store):
        return False
    lock = None if item.lock is None else Lock(store, item.lock, on_wait=_silent)
    if lock is not None and not lock.acquire(timeout=0):
        return False
    try:
        if item.what == LEFT_BY_KILLS:
            store.delete(item.path)
        else:
            store.delete_tree(item.path)
    finally:
        if lock is not None:
            lock.release()
    return not store.exists(item.path)


def at_work(store: Store) -> bool:
    """Whether any run or sweep is at work here: which copies of targets it reads, no lock says."""
    return any(
        is_held(store, f"{folder}/{name}/lock")
        for folder in ("runs", "sweeps")
        for name in store.names(folder)
    )


def _named(store: Store, runs: Iterable[str]) -> list[str]:
    """The identities of runs that are named; none of them is part of a sweep."""
    there, found = store.names("runs"), list[str]()
    for name in runs:
        begun = [run for run in there if name and run.startswith(name)]
        if not begun:
            raise unknown("run", name, there[:20], "prune --run")
        if len(begun) > 1 and name not in begun:
            raise UserError(
                f"prune --run: '{name}' is the beginning of {len(begun)} runs: {', '.join(begun)}."
            )
        found.append(name if name in begun else begun[0])
    for sweep in store.names("sweeps") if found else ():
        try:
            plan: Any = store.read_json(f"sweeps/{sweep}/plan.json", Plan)
        except FileNotFoundError:
            continue
        needed = {trial.get("identity") for trial in plan.get("trials", ())} | set(plan.get("teachers") or ())
        for identity in found:
            if identity in needed:
                raise UserError(
                    f"prune --run: run {identity} is part of the sweep '{sweep}'; expected runs of no sweep. "
                    "Its table needs it."
                )
    return list(dict.fromkeys(found))


def _of_finished(store: Store, directory: str, sizes: dict[str, int]) -> list[Removable]:
    """The state of a finished run, and what was begun to replace it."""
    if _status(store, directory) != "finished":
        return []
    lock, state, fresh = f"{directory}/lock", f"{directory}/checkpoints", f"{directory}/fresh"
    found = [Removable(state, "states", _weight(sizes, state), lock, "nothing: the runs have finished")]
    if _status(store, fresh) != "finished":
        cost = "nothing: --fresh begins anew in any case"
        found.append(Removable(fresh, "replacements begun", _weight(sizes, fresh), lock, cost))
    return found


def _weight(sizes: dict[str, int], folder: str) -> int:
    return sum(size for path, size in sizes.items() if path.startswith(f"{folder}/"))


def _run(store: Store, identity: str, sizes: dict[str, int]) -> Removable:
    directory = f"runs/{identity}"
    summary = whole_summary(store.find_json(f"{directory}/summary.json")) or {}
    seconds = summary.get("seconds")
    cost = f"training it again ({clock(seconds)})" if seconds else "training it again"
    return Removable(directory, f"run {identity}", _weight(sizes, directory), f"{directory}/lock", cost)


def _status(store: Store, directory: str) -> str | None:
    summary = whole_summary(store.find_json(f"{directory}/summary.json"))
    return None if summary is None else str(summary["status"])


def _silent(text: str) -> None:
    """Nobody waits: what is held stays."""
