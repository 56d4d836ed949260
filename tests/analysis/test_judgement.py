"""The judgement of a strategy, on made-up records whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.judgement import MARGIN, Difference, Judgement, Rule, judge
from analysis.judgement_report import report
from analysis.plot_judgement import judgement_pictures
from analysis.shares import shares_table
from analysis.strategies import Strategy
from ray_kd.analysis.headline import DASH
from ray_kd.analysis.records import Plan, Records
from ray_kd.analysis.schema import joined, to_arrow
from ray_kd.config.errors import UserError
from ray_kd.statistics.looks import Looks

SEEDS, EPOCHS = 12, 40
Row = dict[str, Any]


class Scene:
    """Made-up trials: each cell's test metric is its level, plus luck that the cells of a seed share."""

    def __init__(self) -> None:
        self.trials: list[Row] = []
        self.paths: list[Row] = []

    def cell(
        self,
        name: str,
        test: float,
        validation: float | None = None,
        paths: str = "",
        harmful: str = "",
        aggregation: str | None = None,
        pulls: dict[str, float] | None = None,
        noise: float = 0.001,
        width: int = 6,
    ) -> None:
        """Add a cell of all seeds; ``pulls``: path -> w‖g‖ from epoch 11 on (before, all pull alike)."""
        for seed in range(SEEDS):
            own = np.random.default_rng([seed, len(self.trials)]).normal(0, noise)
            luck = np.random.default_rng(seed).normal(0, 0.02)
            who = {"sweep": "s", "cell": name, "seed": seed, "phase": "compare", "identity": f"{name}-{seed}"}
            self.trials.append(
                {
                    **who,
                    "status": "finished",
                    "student": "digits_cnn",
                    "dataset": "digits",
                    "paths": paths,
                    "harmful": harmful,
                    "aggregation": aggregation,
                    "student_options": f'{{"width": {width}}}',
                    "dataset_options": '{"labels": 200}',
                    "aggregation_options": "{}",
                    "planned_epochs": EPOCHS,
                    "best_val_top1": (test if validation is None else validation) + luck,
                    "best_test_top1": test + luck + own,
                }
            )
            for epoch in range(1, EPOCHS + 1) if pulls else ():
                for path, pull in (pulls or {}).items():
                    weight = pull if epoch > EPOCHS / 4 else 1.0
                    self.paths.append(
                        {
                            **who,
                            "epoch": epoch,
                            "path": path,
                            "loss": 1.0,
                            "weight": weight / 2,
                            "gradient_norm": 2.0,
                            "measurements": 20 * epoch,
                        }
                    )

    def judge(self, strategy: str = "utility") -> Judgement:
        return judge(self.records(), strategy)

    def records(self) -> Records:
        rows = {"trials": self.trials, "epochs": [], "paths": self.paths}
        plan = Plan("s", "student alone", "top1", "max", tuple(t["cell"] for t in self.trials))
        return Records(**{name: joined(name, [to_arrow(name, rows[name])]) for name in rows}, plan=plan)


def scene(utility: float = 0.95, spoilt: float = 0.949, pulls: dict[str, float] | None = None) -> Scene:
    made = Scene()
    both = "soft_target, attention_transfer"
    made.cell("student alone", 0.93)
    made.cell("ST", 0.94, paths="soft_target", aggregation="fixed")
    made.cell("AT", 0.93, paths="attention_transfer", aggregation="fixed")
    # equal is best on validation, inverse on test: the test must not choose
    made.cell("equal", 0.95, 0.96, both, aggregation="equal")
    made.cell("inverse", 0.97, 0.94, both, aggregation="inverse")
    made.cell("equal_norm", 0.948, paths=both, aggregation="equal_norm")
    made.cell("utility", utility, paths=both, aggregation="utility")
    worse = f"{both}, shuffled"
    made.cell("equal, harm", 0.91, paths=worse, harmful="shuffled", aggregation="equal")
    made.cell("equal_norm, harm", 0.92, paths=worse, harmful="shuffled", aggregation="equal_norm")
    given = pulls or {"soft_target": 0.7, "attention_transfer": 0.28, "shuffled": 0.02}
    made.cell("utility, harm", spoilt, paths=worse, harmful="shuffled", aggregation="utility", pulls=given)
    return made


def strategy(values: dict[int, float], ended: Iterable[int] | None = None) -> Strategy:
    """One that has these test figures, and whose trials of these seeds have ended."""
    done = frozenset(values if ended is None else ended)
    return Strategy("cell", "", frozenset(), frozenset(), "name", {}, values, {}, done, EPOCHS)


def difference(
    values: dict[int, float], other: dict[int, float], pairs: int = 1, ended: Iterable[int] | None = None
) -> Difference:
    looks = Looks((len(other),), pairs, MARGIN)
    rule = Rule(looks, tuple(other))
    return rule.difference(strategy(values, ended), strategy(other))


@pytest.mark.parametrize("pairs", [1, 6])
def test_intervals_are_paired_and_hold_together(pairs: int) -> None:
    values = {0: 0.9, 1: 0.8, 2: 0.95, 3: 0.7}
    other = {0: 0.88, 1: 0.79, 2: 0.92, 3: 0.70}  # differences that are not skewed
    bounds = difference(values, other, pairs).bounds
    expected = stats.ttest_1samp([0.02, 0.01, 0.03, 0.0], 0).confidence_interval(1 - 0.05 / pairs)
    assert bounds.n == 4
    assert (bounds.low, bounds.high) == pytest.approx((expected.low, expected.high))


def test_every_difference_of_a_judgement_counts() -> None:
    """Two sets against their comparators, three strategies beside a harmful path, two paths alone."""
    judged = scene().judge()
    assert judged.rule.looks.strategies == 2 + 3 + 2
    assert judged.rule.looks.at == (SEEDS,)
    assert "All 7 intervals of this judgement, at the look of 12 seeds" in report(judged)


def test_splits_that_overlap_widen_the_intervals() -> None:
    records = scene().records()
    assert records.plan is not None
    chance = ({"vary": ["split"], "overlap": 0.5, "cells": list(records.plan.cells)},)
    wide = judge(replace(records, plan=replace(records.plan, chance=chance)))
    for one, other in zip(wide.costs, judge(records).costs, strict=True):
        bounds, narrow = one.difference.bounds, other.difference.bounds
        assert bounds.low < narrow.low < narrow.high < bounds.high


def test_after_a_lost_seed_there_is_no_verdict() -> None:
    made = scene()
    made.trials = [
        {**row, "status": "failed"} if (row["cell"], row["seed"]) == ("utility", 3) else row
        for row in made.trials
    ]
    judged = made.judge()
    clean = next(contest for contest in judged.contests if not contest.strategy.harmful)
    assert clean.difference.verdict == "no verdict"
    assert math.isnan(clean.difference.bounds.low)
    assert "no verdict" in report(judged)
    assert all(not picture.trouble for picture in judgement_pictures(judged, made.records()))


def test_the_comparator_is_chosen_on_validation_alone() -> None:
    clean = next(contest for contest in scene().judge().contests if not contest.strategy.harmful)
    assert clean.comparator.name == "equal"
    names = {
        "student alone",
        "soft_target alone",
        "attention_transfer alone",
        "equal",
        "inverse",
        "equal_norm",
    }
    assert set(clean.candidates) == names


def test_a_strategy_is_compared_within_its_setting_and_never_with_itself() -> None:
    made = scene()
    made.cell("other student", 0.99, paths="soft_target, attention_transfer", aggregation="equal", width=4)
    clean = next(contest for contest in made.judge().contests if not contest.strategy.harmful)
    assert (clean.comparator.cell, clean.strategy.setting) == ("equal", "width 6")
    assert "utility" not in clean.candidates


@pytest.mark.parametrize(
    ("level", "verdict"), [(0.95, "non-inferior"), (0.945, "non-inferior"), (0.93, "inferior")]
)
def test_verdict(level: float, verdict: str) -> None:
    clean = next(contest for contest in scene(level).judge().contests if not contest.strategy.harmful)
    assert clean.difference.verdict == verdict
    assert clean.difference.bounds.mean == pytest.approx(level - 0.95, abs=0.001)


def test_a_wide_interval_is_inconclusive_and_so_is_one_seed() -> None:
    made = scene()
    made.trials = [trial for trial in made.trials if trial["cell"] != "utility"]
    made.cell("utility", 0.95, paths="soft_target, attention_transfer", aggregation="utility", noise=0.06)
    clean = next(contest for contest in made.judge().contests if not contest.strategy.harmful)
    assert clean.difference.bounds.low < -0.01 < clean.difference.bounds.high
    assert clean.difference.verdict == "inconclusive"
    one = difference({0: 0.9}, {0: 0.1})
    assert math.isnan(one.bounds.low)
    assert one.verdict == "inconclusive"
    assert difference({0: 0.9, 1: 0.8}, {0: 0.8, 1: 0.7}).verdict == "inconclusive"  # no variance
    assert difference({0: 0.9, 1: 0.8}, {0: 0.9, 1: 0.8}).verdict == "non-inferior"  # the same runs


def test_costs_are_paired_with_the_same_strategy_without_the_harmful_path() -> None:
    judged = scene().judge()
    costs = {cost.strategy.name: cost.difference for cost in judged.costs}
    assert costs["equal"].bounds.mean == pytest.approx(-0.04, abs=0.002)
    assert costs["utility"].verdict == "non-inferior"
    assert costs["equal"].verdict == "inferior"
    assert list(judged.harmful.values()) == [True]


def test_shares_after_a_quarter_and_a_hundred_measurements() -> None:
    shares = {check.share.path: check for check in scene().judge().checks if check.strategy.harmful}
    assert shares["shuffled"].share.mean == pytest.approx(0.02)
    assert shares["shuffled"].share.first == EPOCHS // 4 + 1
    assert shares["shuffled"].holds
    assert shares["soft_target"].counts  # alone it beats the student ...
    assert not shares["attention_transfer"].counts  # ... and this one does not
    assert shares["soft_target"].limit == pytest.approx(1 / 6)
    late = scene()
    late.paths = [{**row, "measurements": row["epoch"] * 4} for row in late.paths]
    found = next(t for t in late.judge().checks if t.share.path == "shuffled")
    assert found.share.first == 25  # 100 measurements


def test_a_harmful_path_that_pulls_and_a_useful_one_that_is_dropped_are_told() -> None:
    pulls = {"soft_target": 0.1, "attention_transfer": 0.5, "shuffled": 0.4}
    checks = {t.share.path: t for t in scene(pulls=pulls).judge().checks if t.strategy.harmful}
    assert checks["shuffled"].holds is False
    assert checks["soft_target"].holds is False
    assert checks["attention_transfer"].holds is None


def test_a_corruption_that_does_no_harm_is_not_counted() -> None:
    made = scene()
    made.trials = [trial for trial in made.trials if trial["cell"] != "equal_norm, harm"]
    worse = "soft_target, attention_transfer, shuffled"
    made.cell("equal_norm, harm", 0.949, paths=worse, harmful="shuffled", aggregation="equal_norm")
    judged = made.judge()
    assert list(judged.harmful.values()) == [False]
    assert next(t for t in judged.checks if t.share.path == "shuffled").holds is None


def test_what_no_cell_tells_is_not_known() -> None:
    made = scene()
    made.trials = [row for row in made.trials if row["cell"] not in ("equal_norm, harm", "ST")]
    checks = {check.share.path: check for check in made.judge().checks}
    assert checks["shuffled"].counts is None
    assert checks["soft_target"].counts is None
    assert checks["attention_transfer"].counts is False
    assert all(check.holds is None for check in checks.values())


def test_stages_add_up_and_unmeasured_epochs_are_left_out() -> None:
    made = scene()
    split = []
    for row in made.paths:
        if row["path"] == "attention_transfer":
            split += [
                {**row, "path": f"attention_transfer/stage{i}", "weight": row["weight"] / 2} for i in (0, 1)
            ]
        else:
            split.append(row)
    made.paths = [{**row, "gradient_norm": None} if row["epoch"] % 2 else row for row in split]
    shares = {t.share.path: t.share for t in made.judge().checks if t.strategy.harmful}
    assert shares["attention_transfer"].mean == pytest.approx(0.28)
    assert shares["shuffled"].first == EPOCHS // 4 + 2


def test_a_share_that_the_aggregator_keeps_stands_where_no_norm_was_measured() -> None:
    made = scene()
    kept = {"soft_target": 0.5, "attention_transfer": 0.4, "shuffled": 0.1}
    made.paths = [{**row, "gradient_norm": None, "share": kept[row["path"]]} for row in made.paths]
    shares = {t.share.path: t.share for t in made.judge().checks if t.strategy.harmful}
    assert {path: share.mean for path, share in shares.items()} == pytest.approx(kept)


def test_where_every_path_is_off_every_share_is_zero() -> None:
    pulls = {"soft_target": 0.0, "attention_transfer": 0.0, "shuffled": 0.0}
    checks = {t.share.path: t for t in scene(pulls=pulls).judge().checks if t.strategy.harmful}
    assert checks["shuffled"].holds is True
    assert checks["soft_target"].holds is False


def test_the_report_names_every_set_and_the_figures_are_drawn() -> None:
    made = scene()
    judged = made.judge()
    text = report(judged)
    for part in ("non-inferior", "equal", "shuffled", "worst seed", "2.0"):
        assert part in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    heads = [index for index, line in enumerate(tables) if "---" in line]
    for index, line in enumerate(tables):
        above = max((head for head in heads if head <= index + 1), default=0)
        assert line.count("|") == tables[above].count("|")
    pictures = judgement_pictures(judged, made.records())
    assert [picture.name for picture in pictures] == ["difference", "cost", "shares"]
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)


def test_what_cannot_be_judged_is_named() -> None:
    with pytest.raises(UserError, match="Did you mean 'utility'"):
        scene().judge("utilty")


def test_the_table_of_shares_says_what_is_followed_and_when_what_is_spoilt_is_off() -> None:
    def table(**pulls: float) -> str:
        return shares_table(scene(pulls=pulls).records())

    text = table(soft_target=0.7, attention_transfer=0.28, shuffled=0.02)
    (row,) = (line for line in text.splitlines() if line.startswith("| utility, harm |"))
    entries = [entry.strip() for entry in row.split("|")[2:-1]]
    assert entries == [
        f"{SEEDS}",
        "28.0 ± 0.0 (28.0)",
        "70.0 ± 0.0 (70.0)",
        "2.0 ± 0.0 (2.0)",
        f"{EPOCHS // 4 + 1} ({SEEDS} of {SEEDS})",
    ]
    assert "| equal |" not in text, "it measures nothing"
    on = table(soft_target=0.5, attention_transfer=0.4, shuffled=0.1)
    assert f"(10.0) | {DASH} (0 of {SEEDS}) |" in on
    bare = scene()
    bare.paths.clear()
    with pytest.raises(UserError, match="no strategy of it measures"):
        shares_table(bare.records())
