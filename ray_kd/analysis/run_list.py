"""The runs of a storage, whether a sweep knows them or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray_kd.analysis.reader import Folder
from ray_kd.analysis.run_files import Row, number_in, read_runs, section


@dataclass(frozen=True)
class ListedRun:
    """A run in a few words.

    Attributes:
        student, dataset: what its spec names, or the classes of the user's own objects.
        state: finished, failed, stopped, running or unfinished.
        epoch: the last one on record.
        figure: of its best weights on the test split, by name; empty where there is none.
    """

    identity: str
    name: str
    student: str
    dataset: str
    state: str
    epoch: int
    figure: str


def list_runs(storage: str | Path | Folder) -> list[ListedRun]:
    """Every run of a storage, in the order of their names and identities."""
    root = Folder.open(storage)
    found = []
    for identity, files in read_runs(root, root.names("runs")).items():
        summary = files.summary or {}
        state = str(summary.get("status") or ("running" if files.at_work else "unfinished"))
        best, monitor = summary.get("best") or {}, str(summary.get("monitor"))
        value = number_in((best.get("test") or {}).get(monitor))
        found.append(
            ListedRun(
                identity,
                str(files.spec.get("name", "")),
                _named(section(files.spec, "student")),
                _named(section(files.spec, "dataset")),
                state,
                int(files.epochs[-1]["epoch"]) if files.epochs else 0,
                "" if value is None else f"{monitor} {value:.4f}",
            )
        )
    return sorted(found, key=lambda run: (run.name, run.identity))


def _named(part: Row) -> str:
    """What a spec calls a part, or the class of an object of the user's own."""
    objects = part.get("objects")
    kinds = list(objects.values()) if isinstance(objects, dict) else [part.get("object")]
    own = ", ".join(dict.fromkeys(str(kind).rpartition(".")[2] for kind in kinds if kind))
    name = str(part.get("name", ""))
    return f"{name}: {own}" if name == "own" and own else name
