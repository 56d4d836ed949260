"""What every strategy of a sweep follows: the share of each path, as a Markdown table."""

from __future__ import annotations

import math

import pandas as pd

from ray_kd.analysis.arms import Arm, arms_of
from ray_kd.analysis.headline import DASH
from ray_kd.analysis.records import Records, incomplete_note
from ray_kd.analysis.shares import QUARTER, pulls
from ray_kd.analysis.stats import interval
from ray_kd.config.errors import UserError
from ray_kd.config.names import markdown

OFF = 0.05
"""A share below which a path counts as off."""


def shares_table(records: Records) -> str:
    """The share w‖g‖ / Σ w‖g‖ of each path under each strategy that records it.

    Raises:
        UserError: the records are of no single sweep, or no strategy of it measures gradients.
    """
    if records.plan is None:
        raise UserError("shares need the plan of one sweep: read_records(storage, sweep=NAME).")
    measured = [
        (arm, frame)
        for arm in arms_of(records.trials, records.plan.metric)
        if not arm.is_alone and len(frame := pulls(arm, records.whole_paths))
    ]
    if not measured:
        raise UserError(f"sweep '{records.plan.name}': no strategy of it measures the paths' gradients.")
    paths = list(
        dict.fromkeys(path for arm, _ in measured for path in sorted(arm.clean) + sorted(arm.harmful))
    )
    spoilt = {path for arm, _ in measured for path in arm.harmful}
    head = ["strategy", "seeds", *(f"{path}{' (spoilt)' if path in spoilt else ''}" for path in paths)]
    head.append("spoilt ones off from epoch")
    lines = [
        f"# What each strategy of `{records.plan.name}` follows",
        "",
        "Share of each path, w‖g‖ over the sum of all paths', in %: mean over the epochs after "
        f"{QUARTER:.0%} of the training and over seeds, ± half-width of its 95 % t-interval; in brackets the "
        "seed where it is least (of a spoilt path: greatest). Last column: the epoch from which on the "
        f"spoilt paths together stay below {OFF:.0%}, mean over the seeds where they do, and how many those "
        "are.",
        "",
        _row(head),
        _row(["---"] + ["---:"] * (len(head) - 1)),
    ]
    lines += [_row(_entries(arm, frame, paths)) for arm, frame in measured]
    damage = incomplete_note(records.trials)
    return "\n".join([*lines, *(["", *damage] if damage else []), ""])


def off_from(frame: pd.DataFrame, harmful: frozenset[str]) -> dict[int, int]:
    """By seed, the first epoch from which on the harmful paths together stay off; absent where none is."""
    found = {}
    spoilt = frame[frame["path"].isin(harmful)]
    for seed, rows in spoilt.groupby("seed"):
        pull = rows.groupby("epoch")["share"].sum().sort_index()
        on = pull.index[pull >= OFF]
        after = pull.index if on.empty else pull.index[pull.index > on[-1]]
        if len(after):
            found[int(seed)] = int(after[0])  # type: ignore[arg-type]
    return found


def _entries(arm: Arm, frame: pd.DataFrame, paths: list[str]) -> list[str]:
    entries = [arm.cell, str(frame["seed"].nunique())]
    late = frame[frame["epoch"] > QUARTER * arm.epochs]
    for path in paths:
        by_seed = late[late["path"] == path].groupby("seed")["share"].mean()
        if by_seed.empty:
            entries.append(DASH)
            continue
        spread = interval([float(share) for share in by_seed])
        worst = by_seed.max() if path in arm.harmful else by_seed.min()
        half = "" if math.isnan(spread.half_width) else f" ± {100 * spread.half_width:.1f}"
        entries.append(f"{100 * spread.mean:.1f}{half} ({100 * worst:.1f})")
    off = off_from(frame, arm.harmful)
    mean = f"{sum(off.values()) / len(off):.0f}" if off else DASH
    return [*entries, f"{mean} ({len(off)} of {entries[1]})" if arm.harmful else DASH]


def _row(entries: list[str]) -> str:
    return "| " + " | ".join(markdown(entry) for entry in entries) + " |"
