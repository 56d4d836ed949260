"""Check before the first trial that every node reads and writes the storage and has the same versions."""

from __future__ import annotations

import contextlib
import platform
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_kd.config.beside import loaded_code
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Lock, Store
from ray_kd.storage.store import PROBE

PATIENCE = 60.0
"""Seconds that nodes have to respond."""


@dataclass(frozen=True)
class Finding:
    """One check of one node."""

    node: str
    check: str
    ok: bool
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Question:
    """What a driver asks of a node.

    Attributes:
        folder: a folder of the storage, in which the driver holds a lock.
        token: the holder of that lock.
        home: id of the driver's node.
        plugins: modules of the user's that runs need.
        versions: the driver's, of these and of what ray-kd needs; they must be equal on every node.
        roots: folders with data.
    """

    storage: str
    folder: str
    token: str
    home: str
    plugins: tuple[str, ...]
    versions: dict[str, str]
    roots: tuple[str, ...]


def versions(plugins: tuple[str, ...] = ()) -> dict[str, str]:
    """The versions that must be equal on every node."""
    import importlib

    import torch

    from ray_kd.version import __version__

    found = {"python": platform.python_version(), "ray_kd": __version__, "torch": torch.__version__}
    for name in plugins:
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "no version"))
        except ImportError as error:
            found[name] = f"missing ({error})"
    return found


def look(question: Question) -> dict[str, Any]:
    """What a node finds; this function runs on that node."""
    store, folder = Store(question.storage), question.folder
    found: dict[str, Any] = {"versions": versions(question.plugins)}
    try:
        found["reads"] = store.read(f"{folder}/token").decode().split(" ")[0]
    except FileNotFoundError:
        found["reads"], found["read_error"] = None, "the file that the driver wrote is not there"
    except (OSError, UserError) as error:
        found["reads"], found["read_error"] = None, str(error)
    if found["reads"] == question.token:  # leave no file in another storage
        mine = f"{folder}/{uuid.uuid4().hex}"
        try:
            store.write(mine, question.token.encode())
            found["wrote"] = mine
        except (OSError, UserError) as error:
            found["write_error"] = str(error)
    found["missing"] = [root for root in question.roots if not Path(root).exists()]
    return found


def own_modules(specs: Sequence[RunSpec]) -> tuple[str, ...]:
    """The modules that workers need besides what is installed there: plug-ins, and code beside a file."""
    found = dict.fromkeys(name for spec in specs for name in spec.plugins)
    for spec in specs:
        found |= dict.fromkeys(loaded_code(spec.to_dict()) if spec.code else ())
    return tuple(found)


@contextmanager
def asking(*specs: RunSpec) -> Iterator[Question]:
    """Within the block, the storage of these runs has what the question asks nodes to find.

    That is a lock's file: it is renewed, so that nobody takes it for what a killed process left behind.
    """
    store, folder = Store(specs[0].storage), f"{PROBE}/{uuid.uuid4().hex}"
    roots = tuple(dict.fromkeys(str(root) for spec in specs if (root := getattr(spec.dataset, "root", None))))
    home, plugins = ray.get_runtime_context().get_node_id(), own_modules(specs)
    try:
        with Lock(store, f"{folder}/token", what="a probe") as lock:
            yield Question(store.uri, folder, lock.owner, home, plugins, versions(plugins), roots)
    finally:
        with contextlib.suppress(OSError, UserError):  # what the block raised says more
            store.delete_tree(folder)
            if store.is_local:
                Path(store.path(PROBE)).rmdir()  # fails while another probe uses the folder


def probe(*specs: RunSpec) -> list[Finding]:
    """Probe every node that is alive and has a CPU, for runs of one storage."""
    with asking(*specs) as question:
        return [finding for findings in probe_nodes(question).values() for finding in findings]


def probe_nodes(question: Question, known: Iterable[str] = ()) -> dict[str, list[Finding]]:
    """Ask the nodes that are alive and have a CPU, all at once, but those with these ids.

    A node that dies meanwhile is dropped: it is no part of the cluster any more.
    """
    nodes = {id: name for id, name in node_names().items() if id not in known}
    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {node: remote.options(scheduling_strategy=_on(node)).remote(question) for node in nodes}
    until, findings = time.monotonic() + PATIENCE, dict[str, list[Finding]]()
    for node, name in nodes.items():
        try:
            seen = ray.get(asked[node], timeout=max(0.0, until - time.monotonic()))
        except Exception as error:
            if node not in node_names():
                continue
            ray.cancel(asked[node], force=True)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            findings[node] = [Finding(name, "responds", False, reason, "See that node's Ray logs.")]
            continue
        there = "wrote" in seen and Store(question.storage).exists(seen["wrote"])
        findings[node] = judge(name, seen, question, there)
    return findings


def node_names() -> dict[str, str]:
    """Id and readable name of every node that is alive and has a CPU."""
    return {
        node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) > 0
    }


def look_here(question: Question) -> list[Finding]:
    """Probe the node of this process; whether its file arrives is seen on the driver's node."""
    node = ray.get_runtime_context().get_node_id()
    seen, there = look(question), False
    if "wrote" in seen:
        remote = ray.remote(num_cpus=0)(_exists).options(scheduling_strategy=_on(question.home))
        there = ray.get(remote.remote(question.storage, seen["wrote"]))
    return judge(node_names().get(node, node), seen, question, there)


def _exists(storage: str, path: str) -> bool:
    return Store(storage).exists(path)


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def judge(name: str, seen: dict[str, Any], question: Question, there: bool) -> list[Finding]:
    """What the driver makes of what a node has found.

    Args:
        there: whether the file that the node wrote is in the driver's storage.
    """
    findings, where = [], question.storage
    same = seen["reads"] == question.token
    findings.append(
        Finding(
            name,
            "storage",
            same and there,
            f"{where} is {'not writable' if same else 'not the storage that the driver sees'} there"
            f" ({seen.get('read_error') or seen.get('write_error') or 'another folder'})"
            if not (same and there)
            else f"{where} is shared and writable",
            "Mount the storage at the same path on every node, or set 'storage' to a shared path or an "
            "object store.",
        )
    )
    for package, version in question.versions.items():
        its = seen["versions"].get(package, "missing")
        findings.append(
            Finding(
                name,
                f"{package} version",
                its == version,
                f"{package} {its}" + ("" if its == version else f", the driver has {version}"),
                f"Install {package} {version} there.",
            )
        )
    for root in question.roots:
        here = root not in seen["missing"]
        findings.append(
            Finding(
                name,
                "dataset root",
                here,
                f"dataset root {root} is {'there' if here else 'missing there'}",
                "Copy or mount the data at the same path on every node.",
            )
        )
    return findings
