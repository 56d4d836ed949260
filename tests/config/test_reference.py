"""docs/reference.md says what the models say: every key, with its true default."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ray_kd.config.reference import reference
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
MINIMAL = {
    "dataset": "digits",
    "student": "digits_cnn",
    "teacher": {"model": "digits_cnn"},
    "paths": ["soft_target"],
}


def blocks() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", reference(), flags=re.DOTALL)


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text() == reference(), "write it again: ray-kd list reference > docs/reference.md"


def test_the_run_file_with_every_key_is_the_run_of_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(blocks()[0])
    assert RunSpec.load(file) == RunSpec.parse(MINIMAL)


def test_the_sweep_file_with_every_key_loads_and_shows_true_defaults(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(blocks()[1])
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(MINIMAL))
    shown = SweepSpec.load(file)
    needed = {
        "name": "comparison",
        "base": MINIMAL,
        "search": {"trials": 20, "space": shown.search[0].space, "cells": ["logits"]},
        "scheduler": {"name": "asha"},
    }
    needed |= {key: getattr(shown, key) for key in ("axes", "cells", "controls", "baseline")}
    assert shown == SweepSpec.parse(needed)


def test_every_key_of_both_files_is_there() -> None:
    for block, model in zip(blocks(), (RunSpec, SweepSpec), strict=True):
        keys = {line.split(":")[0] for line in block.splitlines() if re.match(r"[a-z]", line)}
        assert keys == set(model.model_fields)
