"""A Ray cluster to work on: the one there is, or one started here."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_kd.cluster.quiet import quiet
from ray_kd.config.errors import UserError

quiet()
import ray  # noqa: E402 (its switches come first)

PACKAGE = Path(__file__).parents[1]


@contextmanager
def connect(address: str | None = None, plugins: tuple[str, ...] = ()) -> Iterator[None]:
    """Join a cluster, or start Ray on this machine; shut down only what was started here.

    A cluster that is joined gets the code of ray-kd and of plug-ins shipped by Ray's runtime environment.

    Args:
        address: a cluster's address or ``auto``; default: ``RAY_ADDRESS``, else start Ray here.
        plugins: modules of the user's own that workers must import.

    Raises:
        UserError: nobody answers at the address, or Ray does not start here.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None or address == "local":
        try:
            ray.init(address="local", include_dashboard=False, **options)
        except Exception as error:  # Ray has no type of its own for a start that took too long
            ray.shutdown()
            raise _no_start(error) from error
    else:
        _require_answer(address)
        try:
            ray.init(address=address, runtime_env=ship(plugins), **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise _no_answer(address, str(error).splitlines()[0]) from error
    try:
        yield
    finally:
        ray.shutdown()


def ship(plugins: tuple[str, ...] = ()) -> dict[str, Any]:
    """The runtime environment that carries this ray-kd and plug-ins to every node."""
    import importlib

    places = [str(PACKAGE)]
    for name in plugins:
        module = importlib.import_module(name.partition(".")[0])
        if getattr(module, "__path__", None):
            places.append(str(Path(next(iter(module.__path__)))))
        elif getattr(module, "__file__", None):  # a plug-in of one file
            places.append(str(module.__file__))
    return {"py_modules": places, "excludes": ["__pycache__"]}


def _require_answer(address: str) -> None:
    """Fail within seconds where Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto" or not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise _no_answer(address, str(error)) from error


def _no_answer(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster answers at '{address}' ({reason}). Expected host:port of a head node as "
        "'ray start --head' prints it, or 'auto' on a machine of the cluster; leave --address out to "
        "start Ray here."
    )


def _no_start(error: Exception) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return UserError(
        f"Ray did not start on this machine ({reason}). It is given half a minute; the usual reasons are a "
        "machine that is busy with other work, too little memory, or a full /tmp. Look at 'top' and 'df -h "
        "/tmp' and run the same command again, which keeps what is finished; or join a running cluster with "
        "--address. Ray's logs: /tmp/ray/session_latest/logs."
    )


def describe() -> list[dict[str, Any]]:
    """Every node that is alive: its address, CPUs, GPUs and memory in GiB."""
    rows = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            rows.append(
                {
                    "node": node["NodeManagerAddress"],
                    "id": node["NodeID"],
                    "cpus": has.get("CPU", 0),
                    "gpus": has.get("GPU", 0),
                    "memory": round(has.get("memory", 0) / 2**30, 1),
                }
            )
    return rows
