"""docs/weights.md: what `weight: published` means, path by path, held against each source's own reduction."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.registry import PATHS
from ray_kd.outputs import IGNORE
from ray_kd.paths import create_path
from ray_kd.testing.scenes import SCENES, Scene
from tests.paths.sources import SOURCES, by_level, cells

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
TEXT = PAGE.read_text().partition("\n## ")[0]  # what follows is about other packages
ROWS = re.findall(r"^\| `(\w+)`([^|]*)\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", TEXT, re.MULTILINE)
TABLE = {name + more.strip(): (weight.strip(), factor.strip()) for name, more, weight, _, factor in ROWS}
ON_FEATURES = "channel_wise, `on: features`"


def scene_of(name: str, seed: int) -> Scene:
    """A scene of the path's first task, on which the source and ours differ in the reduction alone."""
    scene = SCENES[PATHS.get(name).tasks[0]](seed, dtype=torch.float64)
    if name == "channel_wise":
        scene.batch.pop("mask")
    if name == "class_logit":  # the same answer everywhere: then reductions alone differ
        scene.student = replace(scene.student, logits=torch.full_like(scene.student.logits, 0.3))
        scene.teacher = replace(scene.teacher, logits=torch.full_like(scene.teacher.logits, 2.0))
    return scene


def known(name: str, scene: Scene) -> dict[str, int]:
    """What the factors of the page are made from."""
    found = {"images": scene.count}
    if name in ("class_logit", "localisation"):
        found["levels"] = sum(bool(chosen.any()) for chosen in by_level(scene))
    if "mask" in scene.batch:
        classes = cells(scene, scene.teacher.features[-1].shape[-2:])
        found |= {"pixels": classes.numel(), "labelled": int((classes != IGNORE).sum())}
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("row", [*SOURCES, ON_FEATURES])
def test_ours_over_the_sources_is_the_factor_of_the_page(row: str, seed: int) -> None:
    name, _, on = row.partition(",")
    scene = scene_of(name, seed)
    options: dict[str, Any] = {"on": "features"} if on else {}
    widths = {"student_channels": scene.student_channels, "teacher_channels": scene.teacher_channels}
    path: Any = create_path(name, **widths, **options).double()
    path.bind(scene.teacher_model)
    path.begin_epoch(100)  # past any warm-up
    target = path.target(scene.teacher)
    if "stateful" in path.traits:
        path(scene.student, target, scene.batch)  # so that there is something to remember
        path.recording = False
    ours = torch.stack(list(path(scene.student, target, scene.batch).values())).sum()
    theirs = SOURCES[name](path, scene)
    weight, factor = TABLE[row]
    assert float(weight) == path.published_weight
    wanted = eval(factor.strip("`"), {}, known(name, scene))  # the page's own arithmetic
    assert (ours / theirs).item() == pytest.approx(wanted, rel=1e-5)
    assert theirs.item() != 0


def test_the_page_has_every_path() -> None:
    assert {row.partition(",")[0] for row in TABLE} == set(PATHS.names())
    without = {row for row, (_, factor) in TABLE.items() if factor == "nobody published one"}
    assert without == set(PATHS.names()) - set(SOURCES)
    assert all(PATHS.get(name).published_weight == 1 for name in without)
