"""What a cluster's autoscaler can add.

Ray tells a driver neither the kinds of nodes that its autoscaler may add nor how many, so it is asked by
demand: a placement group of what a trial reserves is what makes an autoscaler add a node, and the autoscaler
publishes which demands it cannot meet (Ray 2.60, autoscaler v2: within two of its rounds, of 5 seconds each
by default). Autoscaler v1 publishes no such list; what it can add stays unknown, and trials wait.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from typing import Literal

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental.internal_kv import _internal_kv_get, internal_kv_get_gcs_client
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ray_kd.cluster.capacity import Bundle, require_slots, slots, worker_bundle
from ray_kd.config.spec import RunSpec

PATIENCE = 45.0
"""Seconds that an autoscaler has to say whether it can meet a demand."""

AHEAD = 8
"""The fewest trials that wait as demand beyond the places that there are; more where there are more places,
so that a cluster can double, which is the pace of Ray's autoscaler too."""

Answer = Literal["yes", "no", "unknown"]


def alive_nodes(left_out: Iterable[str] = ()) -> list[Bundle]:
    """The total resources of each node of the cluster but those with these ids."""
    return [
        dict(node["Resources"]) for node in ray.nodes() if node["Alive"] and node["NodeID"] not in left_out
    ]


def can_hold(spec: RunSpec, where: str, left_out: Iterable[str] = ()) -> int:
    """How many runs like this one the nodes hold; 0 if the autoscaler can add nodes for one, or may.

    Raises:
        UserError: no node can hold it, and the autoscaler, if there is one, says that it can add none.
    """
    nodes = alive_nodes(left_out)
    count = slots(spec, nodes)
    answer = None if count or not is_there() else ask(spec)
    if count or answer in ("yes", "unknown"):
        return count
    more = "; the cluster's autoscaler says that it can add none that does" if answer else ""
    return require_slots(spec, nodes, where, more)


def is_there() -> bool:
    """Whether the cluster has an autoscaler, as far as Ray says.

    ``ray start`` without a configuration starts v1 in a mode that adds nothing; its node types are the nodes.
    """
    if is_autoscaler_v2(fetch_from_server=True):
        return True
    status = _internal_kv_get("__autoscaling_status")
    report = (json.loads(status).get("autoscaler_report") if status else None) or {}
    kinds = report.get("node_type_mapping") or {}
    return any(kind != f"node_{node}" for node, kind in kinds.items())


def ask(spec: RunSpec) -> Answer:
    """Whether the autoscaler can add nodes for a run; it begins to, if it can."""
    if not is_autoscaler_v2(fetch_from_server=True):
        return "unknown"
    demand = _demand(spec)
    name, until, noted = demand.id.hex(), time.monotonic() + PATIENCE, None
    try:
        while time.monotonic() < until:
            if demand.wait(0.5):
                return "yes"
            reply = _status()
            demands, known = reply.cluster_resource_state, reply.autoscaling_state
            if noted is None and any(name in one.details for one in demands.pending_gang_resource_requests):
                noted = demands.cluster_resource_state_version
            if noted is not None and known.last_seen_cluster_resource_state_version >= noted:
                refused = known.infeasible_gang_resource_requests
                return "no" if any(name in one.details for one in refused) else "yes"
        return "unknown"
    finally:
        remove_placement_group(demand)


def await_nodes(spec: RunSpec, stop: threading.Event) -> None:
    """Wait until the cluster holds a run, whose demand stands meanwhile, or until ``stop`` is set."""
    demand = _demand(spec)
    try:
        while not stop.is_set() and not demand.wait(1):
            pass
    finally:
        remove_placement_group(demand)


def _demand(spec: RunSpec) -> PlacementGroup:
    return placement_group([worker_bundle(spec)] * spec.resources.workers)


def ahead(specs: Iterable[RunSpec], places: int) -> int:
    """How many trials are to wait as demand, beyond those that have a place.

    Args:
        specs: one run of each size that has not ended.
        places: how many runs the nodes hold.
    """
    if not is_there():
        return 0
    if is_autoscaler_v2():
        refused = [
            dict(bundle.resources_bundle)
            for one in _status().autoscaling_state.infeasible_gang_resource_requests
            for bundle in one.requests
        ]
        if any(worker_bundle(spec) in refused for spec in specs):
            return 0  # it has added what it can
    return max(AHEAD, places)


def _status() -> GetClusterStatusReply:
    """What the autoscaler has published."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(internal_kv_get_gcs_client().get_cluster_status(timeout_s=10))
    return reply
