"""ray-kd list datasets NAME --split: which samples a split holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_kd.cli.common import find_file, shown
from ray_kd.config.errors import UserError, unknown
from ray_kd.config.screen import say

FIRST = 20
"""Samples that are listed unless all are asked for."""


def list_samples(
    kind: str | None, name: str | None, options: Sequence[str], split: str | None, every: bool
) -> None:
    """Print id, class and file of the samples of a split, the first ones or all.

    Args:
        name: a dataset, or a run file, whose dataset it is then.
        options: the dataset's, as KEY=VALUE.

    Raises:
        UserError: no dataset or split is named, or it cannot be read.
    """
    from ray_kd.data.sample_checks import SPLITS

    if kind != "datasets" or name is None or split is None:
        raise UserError(
            "list: options, --split and --all are for samples: ray-kd list datasets NAME --split test."
        )
    if split not in SPLITS:
        raise unknown("split", split, SPLITS, f"list datasets {name} --split")
    dataset = _dataset(name, options)
    samples: Any = getattr(dataset, split)
    task = "detection" if "detection" in dataset.tasks else dataset.tasks[0]
    names, ids = dataset.class_names_of(task), samples.ids.tolist()
    classes_in, paths = getattr(samples, "classes_in", None), getattr(samples, "paths", None)
    rows = [("id", "class", "" if paths is None else "file")]
    chosen = range(len(ids) if every else min(FIRST, len(ids)))
    for index in chosen:
        found = [] if classes_in is None else classes_in(index)
        called = ", ".join(names[label] if names else str(label) for label in found)
        rows.append((str(ids[index]), called, "" if paths is None else shown(paths(index)[0])))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for number, called, file in rows:
        say(f"{number:>{widths[0]}}  {called:<{widths[1]}}  {file}".rstrip())
    more = "" if len(chosen) == len(ids) else f"; the first {len(chosen)} above, --all lists them all"
    say(f"{split}: {len(ids):,} samples{more}")


def _dataset(name: str, options: Sequence[str]) -> Any:
    from ray_kd.config.options import parse_component
    from ray_kd.config.registry import DATASETS
    from ray_kd.config.spec import RunSpec
    from ray_kd.config.yamlio import apply_overrides
    from ray_kd.data.create import create_dataset

    if name.endswith((".yaml", ".yml")) or "/" in name:
        return create_dataset(
            RunSpec.load(find_file(name), *(f"dataset.{option}" for option in options)).dataset
        )
    return create_dataset(parse_component(DATASETS, apply_overrides({"name": name}, options)))
