"""The cluster as a sweep sees it: how many jobs its nodes hold, and which nodes are left out."""

from __future__ import annotations

from ray_kd.cluster.autoscaler import ahead, alive_nodes, can_hold, is_there
from ray_kd.cluster.capacity import shortage, slots
from ray_kd.cluster.joined import UnfitNode, left_out, probe_joined
from ray_kd.config.ending import Ending
from ray_kd.config.spec import RunSpec
from ray_kd.trials.job import Job
from ray_kd.trials.ledger import Outcome, node_line
from ray_kd.trials.trial_queue import TrialQueue

MOVES = 10
"""How often a job is started elsewhere since its node was not ready; then all new nodes seem to be so."""


class Places:
    """Counts a cluster's places for the jobs of a trial queue, and notes the nodes that are left out."""

    def __init__(self, queue: TrialQueue) -> None:
        self.queue = queue

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ids of the nodes that are left out."""
        return tuple(self.queue.ledger.left_out)

    def open(self) -> None:
        """Count the places before the first job.

        Raises:
            UserError: no node can hold one of the jobs, and no autoscaler can add one.
        """
        name, jobs = self.queue.plan.name, self._sizes()
        self._set(jobs, [can_hold(job.spec, f"sweep '{name}', {job.cell}") for job in jobs])

    def count(self) -> str | None:
        """Count again, since nodes come and go; returns what a person should know of the nodes."""
        self.queue.ledger.leave_out(left_out())
        nodes, jobs = alive_nodes(self.left_out), self._sizes()
        held = [slots(job.spec, nodes) for job in jobs]
        self._set(jobs, held)
        lacking = [job for job, count in zip(jobs, held, strict=True) if not count]
        words = [_waits(job, shortage(job.spec, nodes)) for job in lacking[:1]]
        kept = self.queue.ledger.left_out.values()
        words += [f"left out: {node_line(known)}" for known in kept][-1:]
        return "; ".join(words) or None

    def of(self, spec: RunSpec) -> int:
        """How many runs like this one may be active at the same time; at least 1."""
        return max(1, slots(spec, alive_nodes(self.left_out))) + self.queue.ahead

    def unfit(self, reason: str, began: bool) -> str | None:
        """Why a job's node is not ready, if that is what ended the job's process; None: it is not.

        Args:
            reason: the error of the process.
            began: whether the process had started; a node may lack what a process needs to say anything.
        """
        before = set(self.left_out)
        self.queue.ledger.leave_out(left_out() if began else probe_joined())
        if UnfitNode.__name__ in reason:
            return reason.strip().splitlines()[-1].partition(f"{UnfitNode.__name__}: ")[2]
        new = [known for node, known in self.queue.ledger.left_out.items() if node not in before]
        return None if began or not new else f"node {new[0]['node']}: {new[0]['reasons'][0]}"

    def moved(self, job: Job, reason: str) -> bool:
        """A job was started on a node that is not ready; returns whether it will be started elsewhere."""
        job.moves += 1
        if job.moves <= MOVES:
            return self.queue.back(job)
        text = f"it was started on {job.moves} nodes that are not ready; the last one: {reason}"
        self.queue.end(job.identity, Outcome(Ending.UNFINISHED, text, 0.0, job.epoch, {}))
        return job.state == "held"

    def _sizes(self) -> list[Job]:
        """One job that has not ended of each size."""
        jobs = (job for job in self.queue.jobs.values() if job.state != "done")
        return list({job.spec.resources: job for job in reversed(list(jobs))}.values())

    def _set(self, jobs: list[Job], held: list[int]) -> None:
        """Take over how many jobs of each size the nodes hold."""
        places, most = max([1, *held]), self.queue.sweep.concurrency
        more = ahead([job.spec for job in jobs], places)
        self.queue.slots = min(places, most or places)
        self.queue.ahead = more if most is None else min(more, most - self.queue.slots)


def _waits(job: Job, shortage: str) -> str:
    asked = " that the cluster's autoscaler may add" if is_there() else ""
    return f"waiting for a node{asked}. {job.cell}: {shortage}"
