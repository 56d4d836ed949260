"""ray-kd doctor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from typing import Annotated

import typer

from ray_kd.cli.common import AddressOption, StorageOption, builtin_file


def doctor(
    address: AddressOption = None,
    storage: StorageOption = None,
    run: Annotated[
        str | None, typer.Option("--run", help="With --address: probe for this run.", show_default=False)
    ] = None,
) -> None:
    """What this machine or cluster has, and what to do about the rest.

    With --address, every node is probed as before a sweep: storage, dataset,
    versions. Exit code 1 when something is missing.

    Examples:
      ray-kd doctor
      ray-kd doctor --address auto --storage /shared/kd
      ray-kd doctor --address auto --run sweeps/runs/digits.yaml
    """
    good = all(_machine(storage or "results"))
    if address is not None:
        good = all(_cluster(address, storage, run)) and good
    if not good:
        raise typer.Exit(1)


def _say(ok: bool | None, what: str, remedy: str = "") -> bool:
    mark = {True: "ok     ", False: "MISSING", None: "note   "}[ok]
    print(f"{mark} {what}" + (f"\n        -> {remedy}" if remedy and ok is not True else ""))
    return ok is not False


def _machine(storage: str) -> list[bool]:
    return [_hardware(), *_torch(), _ray(), _wandb(), _storage(storage)]


def _hardware() -> bool:
    import platform

    import psutil

    memory = psutil.virtual_memory()
    return _say(
        True,
        f"Python {platform.python_version()}, {os.cpu_count()} CPU cores, "
        f"{memory.total / 2**30:.0f} GiB memory ({memory.available / 2**30:.0f} free)",
    )


def _torch() -> list[bool]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    results = [
        _say(True, f"torch {torch.__version__}"),
        _say(
            bool(gpus) or None,
            f"GPUs: {', '.join(gpus) or 'none'}",
            "Runs train on the CPU in float32; with a GPU, mixed precision is used by itself.",
        ),
    ]
    try:
        import torchvision

        boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]])
        kept = torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5)
        results.append(_say(len(kept) == 1, f"torchvision {torchvision.__version__}, operators work"))
    except (ImportError, RuntimeError) as error:
        remedy = "Install torch and torchvision from the same index: 'make setup' does."
        results.append(_say(False, f"torchvision: {str(error).splitlines()[0]}", remedy))
    return results


def _ray() -> bool:
    try:
        return _say(True, f"ray {importlib.metadata.version('ray')}")
    except importlib.metadata.PackageNotFoundError:
        remedy = "'ray-kd train' works without it, sweeps do not: 'make setup' installs it."
        return _say(False, "ray is not installed", remedy)


def _wandb() -> bool:
    if importlib.util.find_spec("wandb") is None:
        return _say(
            None, "W&B not installed (optional)", "pip install 'ray-kd[wandb]', then tracking.wandb=offline"
        )
    from ray_kd.tracking.wandb import has_key

    what = f"W&B {importlib.metadata.version('wandb')}"
    if has_key():
        return _say(True, f"{what}, with a key: tracking.wandb=offline or online")
    return _say(None, f"{what}, no key", "tracking.wandb=offline needs none; for online: wandb login")


def _storage(storage: str) -> bool:
    from ray_kd.config.errors import UserError
    from ray_kd.storage import Store

    try:
        store = Store(storage)
        store.write(".doctor", b"")
        store.delete(".doctor")
        free = f", {shutil.disk_usage(store.root).free / 2**30:.0f} GiB free" if store.is_local else ""
        return _say(True, f"storage {store.uri} is writable{free}")
    except UserError as error:
        return _say(False, "storage", str(error))


def _cluster(address: str, storage: str | None, run: str | None) -> list[bool]:
    from ray_kd.cluster.connect import connect, describe
    from ray_kd.cluster.probe import probe
    from ray_kd.config.spec import RunSpec

    file = run or str(builtin_file("runs/digits.yaml"))
    spec = RunSpec.load(file, *([f"storage={storage}"] if storage else []))
    with connect(address, spec.plugins):
        for node in describe():
            _say(
                True,
                f"node {node['node']}: {node['cpus']:g} CPUs, {node['gpus']:g} GPUs, "
                f"{node['memory']} GiB for tasks",
            )
        lines = [_say(f.ok, f"node {f.node}: {f.message}", f.remedy) for f in probe(spec)]
    return [line for line in lines if not line]
