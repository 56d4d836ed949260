"""Note for the user where a run of other epochs, which is another run, has ended before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ray_kd.config.files import identity_of
from ray_kd.config.spec import RunSpec
from ray_kd.config.training import Training
from ray_kd.storage import Store
from ray_kd.training.records import find_summary

MOST = 2000
"""Other numbers of epochs are tried at least up to this one."""
PROBED = 20
"""For so many runs all numbers of epochs are tried; for the others only those found for these."""


def length_notes(specs: Iterable[RunSpec], store: Store) -> list[str]:
    """A sentence for each number of epochs of finished runs that differ only in their number of epochs.

    It reads only the names of runs, and the summaries of those that fit.

    Args:
        specs: runs that will train; runs that have ended or begun are skipped.
    """
    there = set(store.names("runs"))
    new = [spec for spec in specs if spec.identity() not in there] if there else []
    known = set[int]()
    for spec in new[:: max(1, len(new) // PROBED)]:
        known.update(_ended(spec, range(1, max(MOST, 2 * spec.training.epochs) + 1), there, store))
    found = Counter(
        (before, spec.training.epochs) for spec in new for before in _ended(spec, sorted(known), there, store)
    )
    return [_sentence(count, before, now) for (before, now), count in found.items()]


def _ended(spec: RunSpec, lengths: Iterable[int], there: set[str], store: Store) -> Iterator[int]:
    """Those of ``lengths`` for which a run that differs from ``spec`` in nothing else has finished."""
    essence, default = spec.essence(), Training().epochs
    rest = {key: value for key, value in essence["training"].items() if key != "epochs"}
    for epochs in lengths:
        training = rest if epochs == default else {**rest, "epochs": epochs}
        identity = identity_of({**essence, "training": training})
        if identity in there and epochs != spec.training.epochs:
            summary = find_summary(store, identity)
            if summary is not None and summary["status"] == "finished":
                yield epochs


def _sentence(count: int, before: int, now: int) -> str:
    runs, are = ("a run", "is") if count == 1 else (f"{count} runs", "are")
    others = "it is another run, which trains" if count == 1 else "they are other runs, which train"
    return (
        f"{runs} of the same settings ended after {before} epochs and {are} kept; with {now} epochs {others} "
        "from the first epoch on, since the learning rate depends on their number."
    )
