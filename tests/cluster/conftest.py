"""Ray for the tests that need it: once for each module, two CPUs, quiet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    """A local Ray of two CPUs, whatever the machine has."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
