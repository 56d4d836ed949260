"""Nodes that join a cluster while runs train: probed by what starts there first, and left out if they fail.

The driver keeps its question, and what is known of each node, in Ray's key-value store under the id of its
job, which all its actors and tasks share. So a probe costs a node once, and later processes on it one look.

Where a trial starts is Ray's decision alone, and pending demand may start it on a node that has just joined.
So the process itself probes, raises ``UnfitNode``, and the trial starts again, with a label selector that
excludes the node. Of the three ways to do that (Ray 2.60): a node affinity names the one node to run on,
which pins a trial and asks no autoscaler for another; an actor that blocks the node's resources blocks them
for the cluster's other users too, and keeps an autoscaler from removing a node that is no use; a selector
``!in`` on ``ray.io/node-id``, which Ray gives every node, does neither, and autoscaler v2 heeds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RpcError
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import PlacementGroup, placement_group

from ray_kd.cluster.probe import Finding, Question, asking, look_here, node_names, probe_nodes
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec

NAMESPACE = "ray-kd"
NODE_ID = "ray.io/node-id"
"""The label with a node's id, which Ray gives every node."""


class UnfitNode(Exception):
    """A process was started on a node that fails the probe: what it was to do has to start elsewhere."""


@contextmanager
def probed(*specs: RunSpec) -> Iterator[None]:
    """Within the block runs find nodes that are ready: those that are here are probed first, later ones then.

    Raises:
        UserError: one of the nodes that are here is not ready.
    """
    with asking(*specs) as question:
        _put("", asdict(question))
        try:
            bad = [finding for findings in _probe(question).values() for finding in findings]
            if bad:
                raise UserError("the cluster is not ready for this run.\n  " + "\n  ".join(map(_line, bad)))
            yield
        finally:
            with suppress(RpcError):  # the head is gone, and its store with it
                _internal_kv_del(_key(""), del_by_prefix=True, namespace=NAMESPACE)


def require_fit() -> None:
    """Probe the node of this process, unless that has been done.

    Raises:
        UnfitNode: the node fails the probe.
    """
    question, node = _question(), ray.get_runtime_context().get_node_id()
    if question is None:
        return
    known = _get(node)
    if known is None:
        known = _note(node, look_here(question))
    if known["reasons"]:
        raise UnfitNode(f"node {known['node']}: {known['reasons'][0]}")


def left_out() -> dict[str, dict[str, Any]]:
    """The nodes that failed the probe: id -> ``{"node": its name, "reasons": sentences}``."""
    names = (name.decode().rpartition("/")[2] for name in _internal_kv_list(_key(""), namespace=NAMESPACE))
    found = {name: _get(name) or {} for name in names if name}
    return {node: known for node, known in found.items() if known.get("reasons")}


def probe_joined() -> dict[str, dict[str, Any]]:
    """Probe the nodes of which nothing is known yet; returns ``left_out()``."""
    question = _question()
    if question is not None:
        _probe(question)
    return left_out()


def not_on(nodes: Iterable[str]) -> dict[str, str]:
    """The label selector that excludes these nodes."""
    nodes = sorted(nodes)
    return {NODE_ID: f"!in({','.join(nodes)})"} if nodes else {}


class Elsewhere(PlacementGroupFactory):
    """What a trial reserves, and the nodes that it must not be placed on.

    Two that differ in the nodes alone are equal, so that Tune hands a trial an idle actor that was started
    when fewer nodes were left out: the nodes that are left out have none.
    """

    def __init__(self, bundles: list[dict[str, float]], nodes: Iterable[str] = ()) -> None:
        super().__init__(bundles)
        self._selector = not_on(nodes)

    def to_placement_group(self) -> PlacementGroup:
        selectors = [self._selector] * len(self.bundles) if self._selector else None
        return placement_group(self.bundles, strategy=self.strategy, bundle_label_selector=selectors)


def _probe(question: Question) -> dict[str, list[Finding]]:
    """Probe the nodes of which nothing is known yet; returns what is bad.

    A node that is alone is the driver's own and needs no probe.
    """
    here = node_names()
    if len(here) == 1 and question.home in here:
        _note(question.home, [])
    findings = probe_nodes(question, [node for node in here if _get(node) is not None])
    for node, found in findings.items():
        _note(node, found)
    return {node: [one for one in found if not one.ok] for node, found in findings.items()}


def _note(node: str, findings: Iterable[Finding]) -> dict[str, Any]:
    bad = [finding for finding in findings if not finding.ok]
    known = {"node": bad[0].node if bad else node, "reasons": [f"{one.message}. {one.remedy}" for one in bad]}
    _put(node, known)
    return known


def _line(finding: Finding) -> str:
    return f"node {finding.node}: {finding.message}. {finding.remedy}"


def _question() -> Question | None:
    """The question of this process's driver; None: there is nothing to probe for."""
    told = _get("")
    if told is None:
        return None
    return Question(**{**told, "plugins": tuple(told["plugins"]), "roots": tuple(told["roots"])})


def _key(node: str) -> str:
    return f"probe/{ray.get_runtime_context().get_job_id()}/{node}"


def _get(node: str) -> dict[str, Any] | None:
    text = _internal_kv_get(_key(node), namespace=NAMESPACE)
    return None if text is None else dict(json.loads(text))


def _put(node: str, value: dict[str, Any]) -> None:
    _internal_kv_put(_key(node), json.dumps(value), namespace=NAMESPACE)
