"""What the tests of trials share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_kd.storage import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about lost power, and waiting for the disk is most of the time."""
    monkeypatch.setattr("os.fsync", lambda file: None)
