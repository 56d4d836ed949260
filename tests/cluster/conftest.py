"""A process without Ray, for tests that join a cluster of their own."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_ray() -> None:
    """This process has no Ray: what it calls next starts one, or joins the cluster that it is given."""
    import ray

    ray.shutdown()  # does nothing where there is none; ``two_cpus`` starts it again
