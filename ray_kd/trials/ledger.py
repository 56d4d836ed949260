"""The ledger of a sweep: which runs ended, and how. Only the driver writes it.

``runs/<identity>/summary.json`` says how a run ended. The ledger says that this sweep has noted it, and keeps
what a run could not write itself (its worker died, its teacher failed, the storage was away). Both are
written atomically, so a sweep can be killed at any moment and resumes from them. An entry that cannot be
written (the disk is full) is kept in memory and written with the next one; losing it loses no finished run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ray_kd.config.ending import Ending, noted
from ray_kd.config.errors import UserError
from ray_kd.config.faults import EnvironmentFault
from ray_kd.config.names import one_line
from ray_kd.storage import DamagedFile, Store, shapes
from ray_kd.storage.disk import writing_name
from ray_kd.trials.design import Design

LEFT_OUT = "nodes.json"
"""File of a sweep: the nodes that its last invocation left out."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        best: finite validation metrics of its best epoch; empty where it has none.
        test: test metrics of the same weights, which the table compares; empty where there are none.
        seconds: wall seconds of training.
        error: path of a failed run's traceback below the storage; None if it left none.
    """

    status: Ending
    reason: str | None
    seconds: float
    epochs: int
    best: dict[str, float]
    error: str | None = None
    test: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Outcome:
        """From a run's summary."""
        status = Ending(summary["status"])
        return cls(
            status=status,
            reason=summary.get("reason"),
            seconds=float(summary.get("seconds") or 0.0),
            epochs=int(summary.get("epochs") or 0),
            best=_finite(summary, "val"),
            error=f"runs/{summary['identity']}/error.txt" if status is Ending.FAILED else None,
            test=_finite(summary, "test"),
        )


def _finite(summary: dict[str, Any], split: str) -> dict[str, float]:
    """Metrics of a run's best epoch; one that is no number counts as absent, as in the table."""
    metrics = (summary.get("best") or {}).get(split) or {}
    numbers = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def node_line(left_out: dict[str, Any]) -> str:
    """A node that was left out, and why, in one line."""
    return one_line(f"node {left_out['node']}: {'; '.join(left_out['reasons'])}")


class Ledger:
    """The files of a sweep below ``sweeps/<name>``."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.folder = store, f"sweeps/{name}"
        self.entries: dict[str, dict[str, Any]] = {}
        self.stale: set[str] = set()
        """Runs whose summary does not count in this sweep: it is deleted before they train."""
        self.left_out: dict[str, dict[str, Any]] = {}
        """The nodes that this invocation leaves out: id -> ``{"node": its name, "reasons": sentences}``."""
        self.behind: str | None = None
        """Why files are unwritten; None: none is."""
        self._unwritten: dict[str, bytes] = {}

    def load(self) -> None:
        """Read every entry; a damaged one is skipped, since its run's summary says how the run ended."""
        files = [file for file in self.store.names(f"{self.folder}/ledger") if file.endswith(".json")]
        entries = self._each([f"{self.folder}/ledger/{file}" for file in files], shapes.Entry)
        self.entries = {entry["identity"]: entry for entry in entries if entry}

    def outcomes(self, identities: Iterable[str]) -> dict[str, Outcome]:
        """How each of these runs ended, for those that count as ended in this sweep.

        A run that was stopped by a scheduler of another sweep has not ended in this one. Neither has a run
        that was blocked or unfinished: it is tried again.
        """
        identities = list(identities)
        summaries = self._each([f"runs/{identity}/summary.json" for identity in identities], shapes.Summary)
        found = {}
        for identity, summary in zip(identities, summaries, strict=True):
            entry = self.entries.get(identity)
            ending = noted(entry)
            if summary is None:
                if entry is not None and ending is Ending.FAILED:
                    found[identity] = Outcome(
                        ending, entry.get("reason"), entry.get("seconds") or 0.0, 0, {}, entry.get("error")
                    )
            elif summary["status"] != Ending.STOPPED or ending is Ending.STOPPED:
                found[identity] = Outcome.of(summary)
            else:
                self.stale.add(identity)
        return found

    def write(self, identity: str, cell: str, seed: int, phase: str, outcome: Outcome) -> None:
        """Note that a run ended."""
        entry = {
            "identity": identity,
            "cell": cell,
            "seed": seed,
            "phase": phase,
            "status": outcome.status.value,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
        }
        if outcome.error is not None:
            entry["error"] = outcome.error
        if self.entries.get(identity) != entry:
            self.keep_json(f"{self.folder}/ledger/{identity}.json", entry)
            self.entries[identity] = entry

    def forget(self, identity: str) -> None:
        """Delete a run's entry and summary, and its checkpoints if it failed; it then trains again."""
        self.stale.discard(identity)
        entry = self.entries.get(identity)
        self.erase(identity)
        summary = self.store.find_json(f"runs/{identity}/summary.json", shapes.Summary)
        if (summary or {}).get("status") == "finished":
            return  # another process has finished it in the meantime
        self.store.delete(f"runs/{identity}/summary.json")
        self.store.delete(f"runs/{identity}/error.txt")
        if Ending.FAILED in ((entry or {}).get("status"), (summary or {}).get("status")):
            self.store.delete_tree(f"runs/{identity}/checkpoints")

    def erase(self, identity: str) -> None:
        """Delete a run's entry alone."""
        self.entries.pop(identity, None)
        self.store.delete(f"{self.folder}/ledger/{identity}.json")

    def read_plan(self) -> dict[str, Any] | None:
        """plan.json of an earlier invocation of the sweep; None if there is none, or if it is damaged."""
        found: dict[str, Any] | None = self.store.find_json(f"{self.folder}/plan.json", shapes.Plan)
        return found

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write plan.json."""
        self.keep_json(f"{self.folder}/plan.json", plan)

    def read_design(self) -> Design:
        """The design that an earlier invocation declared; an empty one if there is none.

        Raises:
            UserError: design.json is damaged. What was declared is then unknown, and is not guessed.
        """
        path = f"{self.folder}/design.json"
        try:
            return Design.from_json(self.store.read_json(path, shapes.Design))
        except FileNotFoundError:
            return Design()
        except (DamagedFile, ValueError) as error:
            raise UserError(
                f"{self.store.path(path)}: not a sweep's design, so nobody knows which looks were declared "
                f"({getattr(error, 'problem', error)}). Bring it back, or give the sweep another 'name'."
            ) from None

    def write_design(self, design: Design) -> None:
        """Write design.json."""
        self.keep_json(f"{self.folder}/design.json", design.to_json())

    def leave_out(self, nodes: dict[str, dict[str, Any]]) -> None:
        """Note the nodes that are left out."""
        if nodes.keys() - self.left_out.keys():
            self.left_out |= nodes
            self.keep_json(f"{self.folder}/{LEFT_OUT}", list(self.left_out.values()))

    def forget_nodes(self) -> None:
        """Forget the nodes that an earlier invocation left out: all are probed again."""
        if self.store.exists(f"{self.folder}/{LEFT_OUT}"):
            self.store.delete(f"{self.folder}/{LEFT_OUT}")

    def write_sweep(self, text: str) -> None:
        """Write the resolved sweep file."""
        self.keep(f"{self.folder}/sweep.yaml", text.encode())

    def keep(self, path: str, data: bytes) -> None:
        """Write a file now or, if that fails, with the next one."""
        self._unwritten[path] = data
        try:
            self.flush()
        except EnvironmentFault as fault:
            self.behind = str(fault)

    def keep_json(self, path: str, value: Any) -> None:
        """The same for a JSON file."""
        self.keep(path, (json.dumps(value, indent=2) + "\n").encode())

    def flush(self) -> None:
        """Write the files that could not be written before."""
        for path in list(self._unwritten):
            self.store.write(path, self._unwritten[path])
            del self._unwritten[path]
        self.behind = None

    def test_storage(self) -> None:
        """Write, read and delete a small file of the sweep's; an error says why that is not possible."""
        path = f"{self.folder}/{writing_name()}test"
        self.store.write(path, b"test")
        if self.store.read(path) != b"test":
            raise EnvironmentFault(f"{self.store.path(path)} does not hold what was written to it.")
        self.store.delete(path)

    def _each(self, paths: list[str], shape: Any) -> list[dict[str, Any] | None]:
        """Files of one shape, None for those that are missing or damaged."""
        if self.store.is_local:
            return [self.store.find_json(path, shape) for path in paths]
        with ThreadPoolExecutor(16) as pool:  # each read of an object store takes tens of milliseconds
            return list(pool.map(lambda path: self.store.find_json(path, shape), paths))
