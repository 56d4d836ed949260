"""Compare stored targets with the live teacher on a random sample, and verify every shard's checksum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import parse_component
from ray_kd.config.registry import PATHS
from ray_kd.config.spec import RunSpec
from ray_kd.data import create_views
from ray_kd.models.base import stage_channels
from ray_kd.paths import Path, create_path
from ray_kd.storage import Store
from ray_kd.targets.compute import Column, Source, about, column_values, viewed
from ray_kd.targets.encoding import Encoding
from ray_kd.targets.layout import Group, Shard, TargetStore, ids_digest
from ray_kd.targets.shards import read_shard
from ray_kd.tasks import create_task
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext

FLOAT_ORDER = 5e-5
"""Fraction of a row's largest number that another batch size or another device's kernels may change."""


@dataclass
class Verified:
    """The result for one column.

    Attributes:
        difference: from the live teacher, in the row where it is largest relative to the allowed one.
        allowed: the largest difference that the precision allows in that row.
    """

    split: str
    column: str
    rows: int
    difference: float
    allowed: float
    ok: bool


def verify(
    store: Store, identity: str, context: RunContext, samples: int = 64, seed: int = 0
) -> Iterator[Verified]:
    """Compare a random sample of every column with the live teacher, and verify every shard.

    Args:
        samples: how many rows of each group are computed again.

    Raises:
        UserError: the store is out of date (another teacher, dataset or view policy), or a shard is damaged
            or missing; the message says which.
    """
    found = TargetStore.open(store, identity)
    spec = RunSpec.parse({**found.about["run"], "storage": store.uri})
    name = found.about["teacher"]
    _same(found, about(spec, name)["identity"])
    cache = ProcessCache()
    dataset = cache.dataset(spec.dataset, context.device)
    teacher = cache.teacher(spec, name, store, context.device)
    found.require(teacher.digest)
    task, views = create_task(spec, dataset), create_views(spec, dataset)
    draw = torch.Generator().manual_seed(seed)
    for group in found.groups():
        split = getattr(dataset, group.split)
        if ids_digest(split.ids) != group.ids:
            raise UserError(
                f"{found.files.path()}: the samples of {group.split} are not those of the dataset."
            )
        columns = {
            column: Column(
                encoding, group.made_by[column]["entry"], _path(group.made_by[column], teacher.model)
            )
            for column, encoding in group.columns.items()
        }
        source = Source(found, group.split, split.ids, 1, columns)
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {column: [] for column in columns}
        shards = group.shards(found.begun_views(group))
        chosen = _choose(shards, samples, draw)
        for shard in shards:
            ids, rows = read_shard(found, group, shard)
            _require_ids(found, group, shard, ids, split.ids)
            picked = chosen.get(shard.name)
            if picked is None:
                continue
            policy = views if group.split == "train" else None
            batch = viewed(split, picked + shard.start, policy, shard.view, context.device)
            live = column_values(source, columns, teacher.outputs(batch["image"]), task)
            for column, encoding in group.columns.items():
                seen[column].append((live[column].cpu(), encoding.decode(rows[column][picked])))
        for column, encoding in group.columns.items():
            yield _compare(group.split, column, encoding, seen[column])


def _same(found: TargetStore, now: dict[str, Any]) -> None:
    before = found.about["identity"]
    changed = [key for key in before if before[key] != now.get(key)]
    if changed:
        raise UserError(
            f"{found.files.path()}: {' and '.join(changed)} changed since it was computed (another "
            "version of ray-kd or of a plug-in, or a weight file that was replaced). Delete the "
            "folder; the next run computes its targets again."
        )


def _path(made_by: dict[str, Any], teacher: torch.nn.Module) -> Path | None:
    if made_by["path"] is None:
        return None
    channels = stage_channels(teacher)
    options = parse_component(PATHS, made_by["path"])
    if "adapter" in type(options).model_fields:
        options = options.model_copy(update={"adapter": "conv_bn"})  # targets do not depend on adapters
    return create_path(options, student_channels=channels, teacher_channels=channels)


def _choose(shards: list[Shard], samples: int, draw: torch.Generator) -> dict[str, Tensor]:
    """Random positions of rows by shard, spread over all shards."""
    starts = torch.tensor([0, *(shard.stop - shard.start for shard in shards)]).cumsum(0)
    rows = torch.randint(int(starts[-1]), (min(samples, int(starts[-1])),), generator=draw).unique()
    found: dict[str, Tensor] = {}
    for place, shard in enumerate(shards):
        mine = rows[(rows >= starts[place]) & (rows < starts[place + 1])] - starts[place]
        if len(mine):
            found[shard.name] = mine
    return found


def _require_ids(found: TargetStore, group: Group, shard: Shard, ids: Tensor, wanted: Tensor) -> None:
    if not torch.equal(ids, wanted[shard.start : shard.stop].cpu()):
        raise UserError(
            f"{found.files.path(f'{group.identity}/{shard.name}.parquet')}: its samples are not in "
            "order. Delete it; 'ray-kd precompute' computes it again."
        )


def _compare(split: str, column: str, encoding: Encoding, pairs: list[tuple[Tensor, Tensor]]) -> Verified:
    live = torch.cat([pair[0] for pair in pairs]).float()
    stored = torch.cat([pair[1] for pair in pairs]).float()
    if encoding.top_k is not None:  # the stored classes, as log-probabilities
        live = live.log_softmax(dim=1)
        place = live.topk(encoding.top_k, dim=1).indices
        live, stored = live.gather(1, place), stored.gather(1, place)
    flat, kept = live.flatten(1), stored.flatten(1)
    off = (flat - kept).abs().amax(dim=1)
    allowed = encoding.error(flat) + FLOAT_ORDER * flat.abs().amax(dim=1) + 1e-7
    worst = int((off / allowed).argmax())
    return Verified(
        split, column, len(flat), float(off[worst]), float(allowed[worst]), bool((off <= allowed).all())
    )
