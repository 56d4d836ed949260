"""The records of one run, from which tables, plots and reports are made."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.data.sample_checks import SPLITS
from ray_kd.storage import DamagedFile, Store, tell_once, whole_lines, whole_summary
from ray_kd.storage.store import json_line
from ray_kd.targets.layout import ids_digest
from ray_kd.version import __version__

LIBRARIES = ("ray", "timm", "transformers")
"""Packages whose version is kept where a run loaded them."""
OBJECTS = "objects.json"
"""Lists the user's objects and code in a run; see ``training.object_records``."""
BESIDE = "fresh"
"""The folder inside a finished run's folder where the run is trained again until it has finished."""


class Records:
    """Writes a run's directory.

    Args:
        directory: the run's directory, ``runs/<identity>``, or ``fresh`` in it.
    """

    def __init__(self, store: Store, directory: str) -> None:
        self.store, self.directory = store, directory

    def start(
        self,
        spec: RunSpec,
        environment: dict[str, Any],
        keep_epochs: int,
        data: dict[str, Any],
        objects: dict[str, Any],
    ) -> None:
        """Write the resolved spec, the environment, the data, and the user's objects and code; drop the
        records of epochs that will run again."""
        self.store.delete(f"{self.directory}/summary.json")  # a damaged one
        self.store.write(f"{self.directory}/spec.yaml", spec.to_yaml().encode())
        self.store.write_json(f"{self.directory}/environment.json", environment)
        self.store.write_json(f"{self.directory}/dataset.json", data)
        if objects:
            self.store.write_json(f"{self.directory}/{OBJECTS}", objects)
        for name in ("epochs", "paths"):
            self._cut(name, keep_epochs)

    def _cut(self, name: str, keep_epochs: int) -> None:
        """Keep only the complete lines of epochs up to ``keep_epochs``."""
        if not self.store.is_local:
            for file in self.store.names(f"{self.directory}/{name}"):
                number = file.partition(".")[0]
                if number.isdigit() and int(number) > keep_epochs:
                    self.store.delete(f"{self.directory}/{name}/{file}")
            return
        path = f"{self.directory}/{name}.jsonl"
        try:
            entries, _ = whole_lines(self.store.read(path))
        except FileNotFoundError:
            return
        kept = [entry for entry in entries if _epoch_of(entry) is not None and entry["epoch"] <= keep_epochs]
        self.store.write(path, b"".join(json_line(entry) for entry in kept))

    def epoch(self, record: dict[str, Any], paths: list[dict[str, Any]]) -> None:
        """Append the records of an epoch and its paths."""
        if self.store.is_local:
            for row in paths:
                self.store.append(f"{self.directory}/paths.jsonl", row)
            self.store.append(f"{self.directory}/epochs.jsonl", record)
            return
        self.store.write_json(f"{self.directory}/{_epoch_file(record['epoch'], 'paths')}", paths)
        self.store.write_json(f"{self.directory}/{_epoch_file(record['epoch'])}", record)

    def epochs(self) -> list[dict[str, Any]]:
        """The recorded epochs, without damaged lines."""
        if self.store.is_local:
            try:
                entries, _ = whole_lines(self.store.read(f"{self.directory}/epochs.jsonl"))
            except FileNotFoundError:
                return []
        else:
            folder = f"{self.directory}/epochs"
            read = (self.store.find_json(f"{folder}/{file}") for file in self.store.names(folder))
            entries = [entry for entry in read if isinstance(entry, dict)]
        return [entry for entry in entries if _epoch_of(entry) is not None]

    def epochs_after(self, epoch: int) -> list[dict[str, Any]]:
        """The recorded epochs after this one; an object store is asked once for each, and for the next."""
        if self.store.is_local:
            return [record for record in self.epochs() if record["epoch"] > epoch]
        found: list[dict[str, Any]] = []
        while True:
            record = self.store.find_json(f"{self.directory}/{_epoch_file(epoch + 1)}")
            if not isinstance(record, dict) or _epoch_of(record) != epoch + 1:
                return found
            found.append(record)
            epoch += 1

    def weights(self, file: str, data: bytes) -> None:
        """Write a file of weights."""
        self.store.write(f"{self.directory}/{file}", data)

    def summary(self) -> dict[str, Any] | None:
        """The run's summary, or None if it has not ended."""
        return read_summary(self.store, self.directory)

    def finish(self, summary: dict[str, Any], error: str | None = None) -> dict[str, Any]:
        """Write the summary, as the last file: if it exists, the run has ended.

        The summary of a finished run is not replaced.
        """
        earlier = self.summary()
        if summary["status"] != "finished" and earlier is not None and earlier["status"] == "finished":
            return earlier
        if error is not None:
            self.store.write_text(f"{self.directory}/error.txt", error)
        self.store.write_json(f"{self.directory}/summary.json", summary)
        return summary

    def take_place(self) -> None:
        """Replace the earlier run by the one that was trained again, once that has finished.

        After an interruption the next call continues: the summary is the last file to move.
        """
        place = self.directory.removesuffix(f"/{BESIDE}")
        beside = f"{place}/{BESIDE}"
        ended = read_summary(self.store, beside)
        if ended is None or ended["status"] != "finished":
            return
        for name in ("epochs", "paths"):  # of an object store: moved file by file
            for file in self.store.names(f"{beside}/{name}"):
                self.store.move(f"{beside}/{name}/{file}", f"{place}/{name}/{file}")
        files = [f for f in self.store.names(beside) if f not in ("checkpoints", "epochs", "paths")]
        for file in sorted(files, key=lambda file: file == "summary.json"):
            self.store.move(f"{beside}/{file}", f"{place}/{file}")
        if not self.store.exists(f"{beside}/checkpoints"):  # otherwise Ray Train still uses them
            self.store.delete_tree(beside)


def find_summary(store: Store, identity: str) -> dict[str, Any] | None:
    """The summary of a run that ended, or None; a damaged one counts as missing, with one warning."""
    return read_summary(store, f"runs/{identity}")


def read_summary(store: Store, directory: str) -> dict[str, Any] | None:
    """The summary in a run's directory, or None; a damaged one counts as missing, with one warning."""
    path = f"{directory}/summary.json"
    try:
        summary = whole_summary(store.read_json(path))
    except FileNotFoundError:
        return None
    except DamagedFile:
        summary = None
    if summary is None:
        tell_once(
            f"{store.path(path)} is damaged and counts as missing: the run resumes from its last state, or "
            "trains again if it has none."
        )
    return summary


def _epoch_file(epoch: int, name: str = "epochs") -> str:
    """The object of an epoch; a disk has one file for all epochs."""
    return f"{name}/{epoch:06d}.json"


def _epoch_of(entry: dict[str, Any]) -> int | None:
    epoch = entry.get("epoch")
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) else None


def describe_environment(device: torch.device, precision: str) -> dict[str, Any]:
    """The environment of a run: versions, commit, device."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in LIBRARIES}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "ray_kd": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{name: version for name, version in loaded.items() if version is not None or name == "ray"},
        "device": str(device),
        "device_name": name,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "host": socket.gethostname(),
        "commit": _commit(),
    }


def describe_data(dataset: Dataset, task: str) -> dict[str, Any]:
    """What a run reads: classes, what images look like, and which samples (by digest) each split holds."""
    names = dataset.class_names_of(task)
    splits = {name: getattr(dataset, name) for name in SPLITS}
    return {
        "classes": dataset.classes_of(task),
        "class_names": None if names is None else list(names),
        "image": list(dataset.train.gather(torch.tensor([0]))["image"].shape[1:]),
        "mean": None if dataset.mean is None else list(dataset.mean),
        "std": None if dataset.std is None else list(dataset.std),
        "notes": list(dataset.notes),
        "splits": {name: {"samples": len(s), "ids": ids_digest(s.ids)} for name, s in splits.items()},
    }


def _processor() -> str:
    """The processor's model and the instruction set that PyTorch uses: both change the last digits."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # only Linux has the file, and not every architecture has the line
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


_commits: dict[str, str | None] = {}


def _commit() -> str | None:
    """The commit of the checkout that ray-kd runs from, with '+' if it has changes; None outside one."""
    folder = str(Path(__file__).parents[2])
    if folder not in _commits:
        try:
            text = subprocess.run(
                ["git", "-C", folder, "describe", "--always", "--dirty=+", "--exclude=*"],
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            text = ""
        _commits[folder] = text or None
    return _commits[folder]


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
