"""Files of weights for one small network: written, read, refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.models import create_model


def net(seed: int = 5, **options: Any) -> Any:
    return create_model("digits_cnn", classes=10, channels=1, seed=seed, **options)


def assert_read(content: Any, tmp_path: Path, **options: Any) -> None:
    """A file is read as the weights of ``net()``."""
    file = tmp_path / "weights.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    found, expected = net(1, weights=str(file), **options).state_dict(), net().state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def refusal(content: Any, tmp_path: Path, name: str = "weights.pth", **options: Any) -> str:
    """What is said of a file: its name first, nothing of PyTorch's own words, no codes of a terminal."""
    file = tmp_path / name
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(UserError) as error:
        net(1, weights=str(file), **options)
    told = str(error.value)
    assert told.startswith(str(file))
    assert told.endswith((".", ")"))
    for word in ("\x1b", "\n", "weights_only", "Unpickl", "PytorchStreamReader", "torch.load"):
        assert word not in told, told
    return told


def saved(content: Any, protocol: int = 2, archive: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
    sys.modules.pop("users_own", None)
    return buffer.getvalue()
