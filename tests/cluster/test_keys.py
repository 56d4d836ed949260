"""Keys of the environment never get into records, weights, tables, W&B's files or what a command says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ray_kd.cli.main import main
from ray_kd.config.sweep import SweepSpec
from tests.cluster.faults import Command
from tests.helpers import TINY, tiny

KEYS = {
    "WANDB_API_KEY": "5eed" * 10,
    "AWS_ACCESS_KEY_ID": "AKIA5EEDKEYOFATEST00",
    "AWS_SECRET_ACCESS_KEY": "aws/secret+of+a+test/0123456789abcdefghi",
    "AWS_SESSION_TOKEN": "aws-session-token-of-a-test",
    "HF_TOKEN": "hf_tokenofatesttokenofatest",
    "GOOGLE_API_KEY": "google-key-of-a-test",
    "AZURE_STORAGE_ACCOUNT_KEY": "azure-key-of-a-test==",
    "SOME_PASSWORD": "a-password-of-a-test",
}


def assert_no_key(said: str, *folders: Path) -> None:
    """No key is in a text, nor in any file below these folders (or its name)."""
    read = 0
    texts = {"what it says": said.encode()}
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                file = Path(place, name)
                if file.is_file():
                    texts[str(file)] = file.read_bytes() + os.fsencode(file)
                    read += 1
    assert read > 5
    for where, data in texts.items():
        for name, key in KEYS.items():
            assert key.encode() not in data, f"{name} is in {where}"


def test_a_run_with_wandb_writes_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    spec = tiny(tmp_path / "results", paths=["soft_target"], tracking={"wandb": "offline"})
    (tmp_path / "run.yaml").write_text(spec.to_yaml())
    said = ""
    for words in (
        ["train", "run.yaml"],
        ["train", "run.yaml", "optimizer.lr=1e30"],  # its loss becomes NaN
        ["status", "results"],
        ["doctor", "--run", "run.yaml"],
    ):
        with pytest.raises(SystemExit):
            main(words)
        said += "".join(capsys.readouterr())
    assert "test" in said
    assert list((tmp_path / "results").rglob("*.wandb")), "W&B has written nothing"
    assert_no_key(said, tmp_path)


@pytest.mark.ray
@pytest.mark.exhaustive
def test_a_sweep_of_several_workers_with_stored_targets_writes_no_key(tmp_path: Path) -> None:
    sweep = SweepSpec.parse(
        {
            "name": "keys",
            "base": {**TINY, "storage": str(tmp_path / "results"), "paths": ["soft_target"]},
            "seeds": [0],
            "baseline": "alone",
            "cells": {
                "alone": {"paths": []},
                "two": {"resources.workers": 2},
                "stored": {"targets.source": "stored"},
                "fails": {"optimizer.lr": 1e30},
            },
        }
    )
    (tmp_path / "sweep.yaml").write_text(sweep.to_yaml())
    said = ""
    for words, ends in (
        (["sweep", "sweep.yaml"], (0, 1)),
        (["status", "results"], (0,)),
        (["export", "keys", "--best", "--to=out"], (0,)),
    ):
        command = Command(*words, folder=tmp_path, **KEYS)
        code, text = command.end()
        assert code in ends, text
        said += text
    trials = [json.loads(file.read_text()) for file in (tmp_path / "results").glob("runs/*/summary.json")]
    assert {trial["status"] for trial in trials} >= {"finished"}
    assert_no_key(said, tmp_path)
