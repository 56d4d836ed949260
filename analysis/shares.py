"""Records -> the share of each path in the update under every strategy, and when corrupted paths are off.

    python analysis/shares.py results --sweep utility_ablation
    python analysis/shares.py results --sweep utility_ablation --out docs/results/ablation

Prints the table and writes shares.md.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a script, Python looks in its folder alone

from analysis.path_shares import OFF, QUARTER, shares_by_epoch
from analysis.script import run, script_parser
from analysis.strategies import Strategy, strategies_of
from ray_kd.analysis.headline import DASH
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records, incomplete_note, only_sweep, read_records
from ray_kd.analysis.table_text import pipes
from ray_kd.config.errors import UserError
from ray_kd.config.names import markdown
from ray_kd.config.screen import say
from ray_kd.statistics.intervals import interval


def shares_table(records: Records) -> str:
    """The share w‖g‖ / Σ w‖g‖ of each path under each strategy that records it.

    Raises:
        UserError: the records are of no single sweep, or no strategy of it measures gradients.
    """
    if records.plan is None:
        raise UserError("shares need the plan of one sweep: read_records(storage, sweep=NAME).")
    measured = [
        (strategy, frame)
        for strategy in strategies_of(records.trials, records.plan.metric)
        if not strategy.is_alone and len(frame := shares_by_epoch(strategy, records.whole_paths))
    ]
    if not measured:
        raise UserError(f"sweep '{records.plan.name}': no strategy of it measures the paths' gradients.")
    used = (sorted(strategy.clean) + sorted(strategy.harmful) for strategy, _ in measured)
    paths = list(dict.fromkeys(path for listed in used for path in listed))
    harmful = {path for strategy, _ in measured for path in strategy.harmful}
    head = ["strategy", "seeds", *(f"{path}{' (harmful)' if path in harmful else ''}" for path in paths)]
    head.append("harmful ones off from epoch")
    lines = [
        f"# The share of each path under the strategies of “{markdown(records.plan.name)}”",
        "",
        "Share of each path, w‖g‖ over the sum of all paths', in %: mean over the epochs after "
        f"{QUARTER:.0%} of the training and over seeds, ± half-width of its 95 % t-interval; in brackets the "
        "seed with the smallest share (of a harmful path: the largest). Last column: the epoch from "
        f"which on the harmful paths together stay below {OFF:.0%}, mean over the seeds where they do, and "
        "the number of those seeds.",
        "",
        _row(head),
        pipes(["---"] + ["---:"] * (len(head) - 1)),
    ]
    lines += [_row(_entries(strategy, frame, paths)) for strategy, frame in measured]
    damage = [markdown(note) for note in incomplete_note(records.trials)]
    return "\n".join([*lines, *(["", *damage] if damage else []), ""])


def off_from(frame: pd.DataFrame, harmful: frozenset[str]) -> dict[int, int]:
    """By seed, the first epoch from which on the harmful paths together stay off; absent where none is."""
    found = {}
    for seed, rows in frame[frame["path"].isin(harmful)].groupby("seed"):
        share = rows.groupby("epoch")["share"].sum().sort_index()
        on = share.index[share >= OFF]
        after = share.index if on.empty else share.index[share.index > on[-1]]
        if len(after):
            found[int(seed)] = int(after[0])  # type: ignore[arg-type]
    return found


def _entries(strategy: Strategy, frame: pd.DataFrame, paths: list[str]) -> list[str]:
    entries = [strategy.cell, str(frame["seed"].nunique())]
    late = frame[frame["epoch"] > QUARTER * strategy.epochs]
    for path in paths:
        by_seed = late[late["path"] == path].groupby("seed")["share"].mean()
        if by_seed.empty:
            entries.append(DASH)
            continue
        spread = interval([float(share) for share in by_seed])
        worst = by_seed.max() if path in strategy.harmful else by_seed.min()
        half = "" if math.isnan(spread.half_width) else f" ± {100 * spread.half_width:.1f}"
        entries.append(f"{100 * spread.mean:.1f}{half} ({100 * worst:.1f})")
    off = off_from(frame, strategy.harmful)
    mean = f"{sum(off.values()) / len(off):.0f}" if off else DASH
    return [*entries, f"{mean} ({len(off)} of {entries[1]})" if strategy.harmful else DASH]


def _row(entries: list[str]) -> str:
    return pipes(markdown(entry) for entry in entries)


def main() -> None:
    """Tabulate the shares of one sweep."""
    arguments = script_parser(__doc__).parse_args()
    sweep = arguments.sweep or only_sweep(arguments.storage)
    text = shares_table(read_records(arguments.storage, sweep))
    say(text)
    folder = Folder.open(arguments.out or f"{arguments.storage}/sweeps/{sweep}")
    say(folder.write("shares.md", text))


if __name__ == "__main__":
    run(main)
