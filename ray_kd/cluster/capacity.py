"""The resources that a run asks for, and whether these machines can ever provide them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec

HEAD = "node:__internal_head__"
"""The head node of every cluster has 1 of this resource, so that a cluster needs no resource defined for
ray-kd. Fractions of it limit how many drivers of distributed runs start, without taking a CPU."""

Bundle = dict[str, float]


def worker_bundle(spec: RunSpec) -> Bundle:
    """The resources that one worker of a run reserves."""
    bundle = {"CPU": spec.resources.cpus}
    if spec.resources.gpus:
        bundle["GPU"] = spec.resources.gpus
    return bundle


def fits(bundle: Bundle, node: Bundle) -> int:
    """How many such bundles a node holds."""
    return min(math.floor(node.get(name, 0.0) / amount + 1e-6) for name, amount in bundle.items())


def slots(spec: RunSpec, nodes: Iterable[Bundle]) -> int:
    """How many runs like this one can train at the same time on these nodes."""
    workers = sum(fits(worker_bundle(spec), node) for node in nodes)
    return workers // spec.resources.workers


def require_slots(spec: RunSpec, nodes: list[Bundle], where: str, more: str = "") -> int:
    """How many runs like this one can train at the same time on these nodes.

    Args:
        where: what asks, for the message.
        more: what is known of other nodes, for the message.

    Raises:
        UserError: not even one can; the message says what is asked for and what the nodes have.
    """
    count = slots(spec, nodes)
    if count:
        return count
    raise UserError(
        f"{where}: no slot could ever hold this trial: {shortage(spec, nodes)}{more}. "
        "Lower 'resources' (workers, cpus, gpus), or join a larger cluster with --address."
    )


def shortage(spec: RunSpec, nodes: list[Bundle]) -> str:
    """What a run asks for, and what the nodes have."""
    asked = spec.resources
    each = f"{asked.cpus:g} CPUs" + (f" and {asked.gpus:g} GPUs" if asked.gpus else "")
    what = f"{asked.workers} workers of {each} each" if asked.workers > 1 else each
    there = "; ".join(sorted({f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes}))
    return f"it asks for {what}, and the nodes have {there or 'nothing: there is none'}"


def bundles(spec: RunSpec, total: int) -> tuple[Bundle, ...]:
    """The bundles that a run reserves with Tune.

    The driver of a distributed run takes no CPU, since drivers could otherwise hold all CPUs while their
    workers wait for ever. Its fraction of the head resource lets at most ``total`` drivers start.
    """
    return ({HEAD: share(total)},) if spec.resources.workers > 1 else (worker_bundle(spec),)


def share(count: int) -> float:
    """The fraction of the head resource for ``count`` drivers; a tenth stays free for Ray's own actors."""
    return max(1e-4, math.floor(9e3 / count) / 1e4)  # Ray counts in steps of 0.0001
