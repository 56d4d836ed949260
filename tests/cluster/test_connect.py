"""Ray that does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.faults import REPOSITORY, Command, wait_for


@pytest.mark.ray
@pytest.mark.exhaustive
def test_ray_that_takes_too_long_to_start_is_one_message(tmp_path: Path) -> None:
    file = str(REPOSITORY / "sweeps" / "digits.yaml")
    command = Command("sweep", file, "--storage", str(tmp_path), RAY_gcs_server_port_wait_time_s="0")
    code, said = command.end()
    assert code == 2, said
    (message,) = said.splitlines()
    assert message.startswith("ray-kd: Ray did not start on this machine (Timed out")
    assert "run the same command again" in message
    wait_for(lambda: not command.left(), 20)
