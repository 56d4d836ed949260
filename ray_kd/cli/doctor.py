"""ray-kd doctor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from typing import TYPE_CHECKING, Annotated

import typer

from ray_kd.cli.common import AddressOption, StorageOption, builtin_file
from ray_kd.config.screen import say

if TYPE_CHECKING:
    from ray_kd.config.spec import RunSpec
    from ray_kd.training.speed import Speed


def doctor(
    address: AddressOption = None,
    storage: StorageOption = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="With --address: check for this run.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="RUN.yaml", help="Measure this run's loader and model.", show_default=False
        ),
    ] = None,
    scan: Annotated[
        str | None,
        typer.Option("--scan", metavar="RUN.yaml", help="Read this run's whole dataset.", show_default=False),
    ] = None,
) -> None:
    """Check this machine or a cluster, and say how to fix what is missing.

    With --address, every node is checked as before a sweep: storage, dataset,
    versions. With --data, reading and training are measured for a few seconds,
    to say which one waits for the other. With --scan, every file of a dataset
    is read once, and a table lists what would stop a run and what to look at.
    Exit code 1: something is missing, or would stop a run.

    Examples:
      ray-kd doctor
      ray-kd doctor --address auto --storage /shared/kd
      ray-kd doctor --address auto --run sweeps/runs/digits.yaml
      ray-kd doctor --data sweeps/runs/digits.yaml
      ray-kd doctor --scan sweeps/runs/voc_segmentation_r101_r18.yaml
    """
    if scan is not None:
        from ray_kd.cli.scan import scan_dataset
        from ray_kd.config.errors import UserError

        if data is not None or address is not None:
            raise UserError("doctor: --scan cannot be combined with --data or --address; give one of them.")

        scan_dataset(scan)
        return
    if data is not None:
        _speed(data, storage)
        return
    good = all(_machine(storage or "results"))
    if address is not None:
        good = all(_cluster(address, storage, run)) and good
    if not good:
        raise typer.Exit(1)


def _say(ok: bool | None, what: str, remedy: str = "") -> bool:
    mark = {True: "ok     ", False: "MISSING", None: "note   "}[ok]
    say(f"{mark} {what}" + (f"\n        -> {remedy}" if remedy and ok is not True else ""))
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
            "Runs train on the CPU in float32. On a GPU they use mixed precision by default.",
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
        remedy = "'ray-kd train' works without Ray, sweeps need it: 'make setup' installs it."
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


def _speed(file: str, storage: str | None) -> None:
    """Measure reading and training, and say which one waits and how to speed it up."""
    from ray_kd.config.spec import RunSpec
    from ray_kd.training.preflight import check_run
    from ray_kd.training.run_context import local_context
    from ray_kd.training.speed import measure

    spec = RunSpec.load(file, *([f"storage={storage}"] if storage else []))
    check_run(spec)
    speed = measure(spec, local_context(spec))
    where = "from memory" if speed.in_memory else f"from files, resources.loaders={speed.processes}"
    say(f"loader alone  {speed.loader:>10,.0f} images/s   {where}")
    say(f"model alone   {speed.model:>10,.0f} images/s   one worker on {speed.device}, teachers counted in")
    say(f"together      {speed.together:>10,.0f} images/s   at most")
    if speed.waits == "loader":
        _say(True, "the model does not wait for data: faster loading would gain little")
    else:
        share = 1 - speed.together / speed.model
        _say(None, f"the model waits for data {share:.0%} of the time", _faster(speed, spec))
    _shared_memory(speed)


def _faster(speed: Speed, spec: RunSpec) -> str:
    if speed.in_memory:
        return f"views: '{spec.views.component_name}' takes most time; choose cheaper views or fewer options."
    cores, workers = os.cpu_count() or 1, spec.resources.workers
    room = max(1, cores // workers - 1)
    advice = f"resources.loaders={min(speed.wanted, room)} (and resources.cpus, on a cluster)"
    if speed.wanted <= room:
        return f"{advice} would keep it busy."
    return (
        f"{speed.wanted} loaders would keep it busy, but {cores} cores have room for {room} for each of "
        f"{workers} worker(s). Set {advice}; then use smaller files (resize them once) or cheaper views."
    )


def _shared_memory(speed: Speed) -> None:
    """Check shared memory, which batches are passed through and which is often small in containers."""
    if not speed.processes or speed.in_memory or not os.path.isdir("/dev/shm"):
        return
    from ray_kd.data.loading import AHEAD

    need, free = speed.batch_bytes * speed.processes * AHEAD, shutil.disk_usage("/dev/shm").free
    _say(
        free > need or None,
        f"shared memory: {free / 2**20:,.0f} MiB free, batches ahead take at most {need / 2**20:,.0f}",
        "Give the container more (--shm-size), or lower resources.loaders.",
    )


def _cluster(address: str, storage: str | None, run: str | None) -> list[bool]:
    from ray_kd.cluster.connect import connect, describe
    from ray_kd.cluster.probe import own_modules, probe
    from ray_kd.config.spec import RunSpec

    file = run or str(builtin_file("runs/digits.yaml"))
    spec = RunSpec.load(file, *([f"storage={storage}"] if storage else []))
    with connect(address, own_modules([spec])):
        for node in describe():
            _say(
                True,
                f"node {node['node']}: {node['cpus']:g} CPUs, {node['gpus']:g} GPUs, "
                f"{node['memory']} GiB for tasks",
            )
        lines = [_say(f.ok, f"node {f.node}: {f.message}", f.remedy) for f in probe(spec)]
    return [line for line in lines if not line]
