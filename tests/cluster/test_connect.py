"""Ray that does not start, and a cluster whose head is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
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


LOSES = """
import sys, time
from ray_kd.cluster.head import watched
with watched(sys.argv[1], patience=1.0):
    print("joined", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_driver_whose_head_is_gone_says_so_and_can_be_resumed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        driver = subprocess.Popen(
            [sys.executable, "-c", LOSES, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "joined\n"
        head.settimeout(60)
        for _ in range(8):  # looks that are answered, two seconds of them
            head.accept()[0].close()
        assert driver.poll() is None, "a head that answers was taken for lost"
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 3
    assert address in said
    assert "the same command resumes" in said
