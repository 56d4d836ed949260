"""Check before the first trial that every node reads and writes the storage and has the same versions."""

from __future__ import annotations

import contextlib
import platform
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_kd.config.beside import loaded_code
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Store

PATIENCE = 60.0
"""Seconds that a node has to respond."""


@dataclass(frozen=True)
class Finding:
    """One check of one node."""

    node: str
    check: str
    ok: bool
    message: str
    remedy: str = ""


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


def look(
    storage: str, folder: str, token: str, roots: tuple[str, ...], plugins: tuple[str, ...]
) -> dict[str, Any]:
    """What a node finds; this function runs on that node."""
    store = Store(storage)
    found: dict[str, Any] = {"versions": versions(plugins)}
    try:
        found["reads"] = store.read(f"{folder}/token").decode()
    except FileNotFoundError:
        found["reads"], found["read_error"] = None, "the file that the driver wrote is not there"
    except (OSError, UserError) as error:
        found["reads"], found["read_error"] = None, str(error)
    if found["reads"] == token:  # leave no file in another storage
        mine = f"{folder}/{uuid.uuid4().hex}"
        try:
            store.write(mine, token.encode())
            found["wrote"] = mine
        except (OSError, UserError) as error:
            found["write_error"] = str(error)
    found["missing"] = [root for root in roots if not Path(root).exists()]
    return found


def own_modules(specs: Sequence[RunSpec]) -> tuple[str, ...]:
    """The modules that workers need besides what is installed there: plug-ins, and code beside a file."""
    found = dict.fromkeys(name for spec in specs for name in spec.plugins)
    for spec in specs:
        found |= dict.fromkeys(loaded_code(spec.to_dict()) if spec.code else ())
    return tuple(found)


def probe(*specs: RunSpec) -> list[Finding]:
    """Probe every node that is alive and has a CPU, for runs of one storage."""
    store, token = Store(specs[0].storage), uuid.uuid4().hex
    folder = f".probe/{token}"
    roots = tuple(dict.fromkeys(str(root) for spec in specs if (root := getattr(spec.dataset, "root", None))))
    plugins = own_modules(specs)
    store.write(f"{folder}/token", token.encode())
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {
        node["NodeID"]: remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(store.uri, folder, token, roots, plugins)
        for node in nodes
    }
    findings: list[Finding] = []
    try:
        for node in nodes:
            name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            try:
                seen = ray.get(asked[node["NodeID"]], timeout=PATIENCE)
            except Exception as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                findings.append(Finding(name, "responds", False, reason, "See that node's Ray logs."))
                continue
            findings += _judge(name, seen, store, token, versions(plugins), roots)
    finally:
        store.delete_tree(folder)
        with contextlib.suppress(OSError):  # another probe may be using the folder
            if store.is_local:
                Path(store.path(".probe")).rmdir()
    return findings


def _judge(
    name: str, seen: dict[str, Any], store: Store, token: str, ours: dict[str, str], roots: tuple[str, ...]
) -> list[Finding]:
    findings = []
    same = seen["reads"] == token
    findings.append(
        Finding(
            name,
            "storage",
            same and "wrote" in seen and store.exists(seen["wrote"]),
            f"{store.uri} is {'not writable' if same else 'not the storage that the driver sees'} there"
            f" ({seen.get('read_error') or seen.get('write_error') or 'another folder'})"
            if not (same and "wrote" in seen)
            else f"{store.uri} is shared and writable",
            "Mount the storage at the same path on every node, or set 'storage' to a shared path or an "
            "object store.",
        )
    )
    for package, version in ours.items():
        there = seen["versions"].get(package, "missing")
        findings.append(
            Finding(
                name,
                f"{package} version",
                there == version,
                f"{package} {there}" + ("" if there == version else f", the driver has {version}"),
                f"Install {package} {version} there.",
            )
        )
    for root in roots:
        there = root not in seen["missing"]
        findings.append(
            Finding(
                name,
                "dataset root",
                there,
                f"dataset root {root} is {'there' if there else 'missing there'}",
                "Copy or mount the data at the same path on every node.",
            )
        )
    return findings


def check_cluster(*specs: RunSpec) -> None:
    """Probe every node for what the runs need, if the cluster has more than one node."""
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return
    bad = [finding for finding in probe(*specs) if not finding.ok]
    if bad:
        lines = [f"node {finding.node}: {finding.message}. {finding.remedy}" for finding in bad]
        raise UserError("the cluster is not ready for this run.\n  " + "\n  ".join(lines))
