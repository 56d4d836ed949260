"""Connect to a Ray cluster, or start Ray on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ray_kd.cluster.authentication import authentication
from ray_kd.cluster.head import watched
from ray_kd.cluster.quiet import quiet
from ray_kd.config.errors import UserError

quiet()
import ray  # noqa: E402 (its switches come first)
import ray.util.client  # noqa: E402
from ray._private import services  # noqa: E402 (how Ray itself resolves ``auto``)
from ray.exceptions import RpcError  # noqa: E402

PACKAGE = Path(__file__).parents[1]


@contextmanager
def connect(address: str | None = None, modules: tuple[str, ...] = ()) -> Iterator[bool]:
    """Join a cluster, or start Ray on this machine; shut down only what was started here.

    Ray's runtime environment ships the code of ray-kd and of the user to a cluster that is joined. If its
    head is lost, this process ends with exit code 3 (``cluster.head``). Yields whether other nodes may join:
    False where Ray was started here.

    Args:
        address: a cluster's address or ``auto``; default: ``RAY_ADDRESS``, else start Ray here.
        modules: the user's own that workers must import.

    Raises:
        UserError: no cluster responds at the address, it refuses the connection, or Ray does not start here.
    """
    if ray.is_initialized():
        if ray.util.client.ray.is_connected():
            raise _ray_client("the connection that this process has")
        yield True
        return
    address = _resolve(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    with ExitStack() as stack:
        try:
            if address is not None:
                _require_answer(address)
            stack.enter_context(authentication(address))
            if address is None:
                ray.init(address="local", include_dashboard=False, **options)
            else:
                ray.init(address=address, runtime_env=ship(modules), **options)
        except UserError:
            raise
        except Exception as error:  # Ray raises no type of its own when its start takes too long
            ray.shutdown()
            raise (_no_start(error) if address is None else _not_joined(address, error)) from error
        stack.callback(ray.shutdown)
        if address is not None:
            stack.enter_context(watched(address))
        yield address is not None


def _resolve(address: str | None) -> str | None:
    """``host:port`` of the cluster to join; None: Ray is to be started here."""
    if not address or address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if not address or address == "local":
        return None
    if address.startswith("ray://"):
        raise _ray_client(f"the address '{address}'")
    if address != "auto":
        return address
    try:
        return str(services.canonicalize_bootstrap_address(address))
    except (ConnectionError, ValueError) as error:
        raise _no_answer(address, _reason(error)) from error


def ship(modules: tuple[str, ...] = ()) -> dict[str, Any]:
    """The runtime environment that carries this ray-kd and the user's modules to every node."""
    import importlib

    places = [str(PACKAGE)]
    for name in modules:
        module = importlib.import_module(name.partition(".")[0])
        if getattr(module, "__path__", None):
            places.append(str(Path(next(iter(module.__path__)))))
        elif getattr(module, "__file__", None):  # a module of one file
            places.append(str(module.__file__))
    return {"py_modules": places, "excludes": ["__pycache__"]}


def _require_answer(address: str) -> None:
    """Fail within seconds if nothing listens at the address; Ray itself would try for a minute."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise _no_answer(address, "this is not host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, str(error)) from error


def _no_answer(address: str, reason: str) -> UserError:
    return UserError(
        f"no Ray cluster responds at '{address}' ({reason}). Expected host:port of a head node as "
        "'ray start --head' prints it, or 'auto' on a machine of the cluster; leave --address out to "
        "start Ray here."
    )


def _ray_client(what: str) -> UserError:
    return UserError(
        f"{what} is Ray Client's (ray://), through which ray-kd cannot work: its driver has to run on the "
        "cluster. Run the same command on a machine of the cluster with --address auto, or with the "
        "host:port that 'ray start --head' prints; or send it there: 'ray job submit --address "
        "http://HEAD:8265 -- ray-kd ...'."
    )


def _not_joined(address: str, error: Exception) -> UserError:
    if isinstance(error, RpcError | TimeoutError):
        return _no_answer(address, _reason(error))
    if "Version mismatch" in str(error):
        versions = " ".join(str(error).split())
        return UserError(
            f"the Ray cluster at '{address}' has other versions than this machine ({versions}). Install the "
            "same ones on both: requirements.lock names them."
        )
    return UserError(
        f"Ray could not join the cluster at '{address}' ({type(error).__name__}: {_reason(error)}). Run the "
        "command on a machine of the cluster, where 'ray status' says whether the cluster is well. Ray's "
        "logs: /tmp/ray/session_latest/logs."
    )


def _no_start(error: Exception) -> UserError:
    if isinstance(error, OSError) and ".ray" in str(error.filename):
        return UserError(
            f"Ray cannot write its token to ~/.ray/auth_token ({_reason(error)}). Make the folder writable, "
            "or set RAY_AUTH_TOKEN to a long secret of your own."
        )
    return UserError(
        f"Ray did not start on this machine ({_reason(error)}). It is given half a minute; the usual reasons "
        "are a machine that is busy with other work, too little memory, or a full /tmp. Look at 'top' and "
        "'df -h /tmp' and run the same command again, which trains no finished run again; or join a running "
        "cluster with --address. Ray's logs: /tmp/ray/session_latest/logs."
    )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


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
