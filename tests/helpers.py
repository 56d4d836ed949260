"""Small real runs for tests."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ray_kd.config.registry import REGISTRIES
from ray_kd.config.spec import RunSpec
from tests.data.formats import make_folder
from tests.s3 import KEYS, NO_METADATA

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"name": "digits", "labels": 120},
    "views": {"name": "shift", "count": 3},
    "student": {"name": "digits_cnn", "width": 2},
    "teacher": {
        "model": {"name": "digits_cnn", "width": 4},
        "dataset": {"labels": 200},
        "training": {"epochs": 2, "batch_size": 50},
        "at_chance": "go_on",  # eight steps teach it next to nothing
    },
    "training": {"epochs": 3, "batch_size": 30},
    "checkpoints": {"every_epochs": 1},
}

TINY_SCENES: dict[str, Any] = {
    "task": "segmentation",
    "dataset": {"name": "scenes", "size": 24, "train": 48, "labels": 32, "validation": 8, "test": 8},
    "views": {"name": "jitter", "count": 3, "pixels": 2},
    "student": {"name": "scenes_segnet", "width": 2},
    "teacher": {
        "model": {"name": "scenes_segnet", "width": 4},
        "training": {"epochs": 2, "batch_size": 16},
        "at_chance": "go_on",
    },
    "training": {"epochs": 2, "batch_size": 8},
}
"""Changes that make a tiny run one of segmentation: two epochs of four steps."""


def on_files(root: Path, loaders: int) -> dict[str, Any]:
    """Changes that make a tiny run one on image files, which so many processes read ahead.

    The files are written below ``root`` unless they are there: 16 to train on, in two classes.
    """
    if not (root / "pets").exists():
        make_folder(root / "pets", 10)
    return {
        "dataset": {"name": "image_folder", "root": str(root / "pets"), "size": 16, "validation": 0.2},
        "views": "photo",
        "teacher": {
            **TINY["teacher"],
            "dataset": {"labels": 16},
            "training": {"epochs": 1, "batch_size": 8},
        },
        "training": {"epochs": 2, "batch_size": 4},
        "optimizer": {"lr": 0.02},
        "resources": {"loaders": loaders},
    }


ALL_PATHS = ["soft_target", "logits", {"name": "attention_transfer", "weight": 10}, "nst"]


def tiny(storage: Path, **changes: Any) -> RunSpec:
    """A run of a second: three epochs of four steps."""
    return RunSpec.parse({**TINY, "storage": str(storage), **changes})


def daily(values: Iterable[Any], first: int = 1) -> list[Any]:
    """A list for ``parametrize``: its first values run in ``make test``, the others in ``make test-all``."""
    marks = pytest.mark.exhaustive
    return [
        value if number < first else pytest.param(value, marks=marks) for number, value in enumerate(values)
    ]


def start_ray() -> None:
    """The session's Ray, two CPUs whatever the machine has; it is started where it does not run.

    Its processes have the keys of the tests' S3 server.
    """
    from ray_kd.cluster.quiet import quiet

    quiet()  # before Ray is imported
    import ray

    if not ray.is_initialized():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**KEYS, **NO_METADATA}.items():
                patch.setenv(name, value)
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")


def shifted(spec: RunSpec, by: int) -> RunSpec:
    """The run with every seed in it moved: its own, its data's, its views', its teachers'."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: kept + by if key == "seed" and isinstance(kept, int) else moved(kept)
                for key, kept in value.items()
            }
        return [moved(one) for one in value] if isinstance(value, list) else value

    return RunSpec.parse(moved(spec.to_dict()))


@contextmanager
def registries_restored() -> Iterator[None]:
    """What is registered inside is forgotten afterwards: other tests ask what there is."""
    for registry in REGISTRIES.values():
        registry.load()
    kept = {kind: copy.copy(registry._entries) for kind, registry in REGISTRIES.items()}
    try:
        yield
    finally:
        for kind, registry in REGISTRIES.items():
            registry._entries = kept[kind]
