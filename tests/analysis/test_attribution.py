"""What each path is worth, from records of all subsets; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_kd.analysis import analyze
from ray_kd.analysis.attribution import Attribution, attribution
from ray_kd.analysis.comparison import compare_cells
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import read_records
from ray_kd.analysis.subsets import cells_by_subset
from ray_kd.config.errors import UserError
from ray_kd.statistics.attribution import subsets
from ray_kd.statistics.looks import Verdict
from tests.analysis.make_records import Strategy, make_records

PARTS = {"soft_target": 0.04, "nst": -0.03, "logits": 0.0}
"""What each path adds on average; ``logits`` adds it in half of the seeds and takes it in the others."""
SEEDS = 8


def named(subset: frozenset[str]) -> str:
    """Names that say nothing of paths: those are read from the runs."""
    return f"cell {sum(2**place for place, path in enumerate(PARTS) if path in subset)}"


def storage(root: Path, **more: Any) -> Path:
    strategies = {named(subset): Strategy(tuple(sorted(subset))) for subset in subsets(PARTS)}
    values = {
        (named(subset), seed): 0.8
        + sum((PARTS[path] or 0.01 * (-1) ** seed) * (1 + 0.05 * (seed % 3)) for path in subset)
        for subset in subsets(PARTS)
        for seed in range(SEEDS)
    }
    given = {"strategies": strategies, "values": values, "seeds": SEEDS, "baseline": "cell 0"}
    return make_records(root, epochs=2, control=False, **{**given, **more})


def found_in(root: Path) -> Attribution:
    records = read_records(root, "digits")
    return attribution(records, compare_cells(records), Folder.open(root))


def change_specs(root: Path, cell: str, change: dict[str, Any]) -> None:
    """Change the recorded specs of a cell's runs."""
    plan = json.loads((root / "sweeps" / "digits" / "plan.json").read_text())
    for trial in plan["trials"]:
        if trial["cell"] == cell:
            file = root / "runs" / trial["identity"] / "spec.yaml"
            file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))


def test_each_path_gets_its_part_and_the_verdict_of_its_interval(tmp_path: Path) -> None:
    found = {one.path: one for one in found_in(storage(tmp_path)).paths}
    assert {name: one.shapley.verdict for name, one in found.items()} == {
        "soft_target": Verdict.BETTER,
        "nst": Verdict.WORSE,
        "logits": Verdict.OPEN,
    }
    mean = 0.04 * sum(1 + 0.05 * (seed % 3) for seed in range(SEEDS)) / SEEDS
    assert found["soft_target"].shapley.difference.mean == pytest.approx(mean)
    assert found["soft_target"].left_out.difference.mean == pytest.approx(mean)  # nothing interacts here
    assert found["nst"].shapley.difference.high < 0


def test_the_values_add_up_to_the_difference_of_all_and_none(tmp_path: Path) -> None:
    found = found_in(storage(tmp_path))
    cells = {cell.name: cell.best.mean for cell in found.comparison.cells}
    total = sum(one.shapley.difference.mean for one in found.paths)
    assert total == pytest.approx(cells["cell 7"] - cells["cell 0"])


def test_a_declared_margin_calls_a_small_part_the_same(tmp_path: Path) -> None:
    found = {one.path: one for one in found_in(storage(tmp_path, looks=(SEEDS,), margin=2.5)).paths}
    assert found["logits"].shapley.verdict is Verdict.SAME
    assert found["soft_target"].shapley.verdict is Verdict.BETTER


def test_a_seed_lost_by_any_cell_leaves_no_verdict(tmp_path: Path) -> None:
    found = found_in(storage(tmp_path, statuses={("cell 3", 5): "failed"}))
    assert found.lost == 1
    assert {one.shapley.verdict for one in found.paths} == {Verdict.NONE}
    assert len(found.values) == SEEDS - 1


def test_in_mid_sweep_means_only_describe(tmp_path: Path) -> None:
    root = storage(tmp_path / "s", statuses={("cell 3", 5): "running"})
    assert {one.shapley.look for one in found_in(root).paths} == {0}
    assert "the means only describe until then" in analyze(root, only="attribution", out=tmp_path).answers


def test_a_path_of_weight_0_is_off(tmp_path: Path) -> None:
    root = storage(tmp_path)
    off = [{"name": name, "label": None, "weight": 0} for name in ("nst", "logits")]
    change_specs(root, "cell 1", {"paths": [{"name": "soft_target", "label": None, "weight": 1.0}, *off]})
    assert found_in(root).cells[frozenset({"soft_target"})] == "cell 1"


def test_table_csv_and_figure_are_written(tmp_path: Path) -> None:
    found = analyze(storage(tmp_path / "s"), only="attribution", out=tmp_path / "out")
    assert set(found.files) == {
        *(f"attribution.{end}" for end in ("md", "csv")),
        *(f"plots/attribution.{end}" for end in ("png", "svg")),
    }
    assert "is better: “soft_target”; worse: “nst”; open: “logits”." in found.answers
    assert "from 8 cells: all subsets of 3 paths" in found.answers
    rows = (tmp_path / "out" / "attribution.csv").read_text().splitlines()
    assert len(rows) == 4
    assert not found.left_out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"student": {"name": "small_cnn", "channels": [8]}},
            r"'cell 0' and 'cell 5' differ in student.channels \(\[8, 12, 16\] and \[8\]\)",
        ),
        ({"training": {"epochs": 3, "batch_size": 64}}, r"differ in training.epochs \(2 and 3\)"),
        (
            {"aggregation": {"name": "equal", "granularity": "path", "k": 1.0}},
            r"aggregation.name \(fixed and",
        ),
        ({"paths": [{"name": "nst", "weight": 2.0}]}, r"differ in paths.nst.weight"),
        ({"paths": [{"name": "nst", "weight": 1.0}]}, r"both have the paths 'nst'"),
    ],
)
def test_cells_that_differ_in_anything_else_are_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    root = storage(tmp_path)
    change_specs(root, "cell 5", change)
    with pytest.raises(UserError, match=message):
        found_in(root)


def test_a_missing_subset_is_named(tmp_path: Path) -> None:
    kept = {named(subset): Strategy(tuple(sorted(subset))) for subset in subsets(PARTS) if len(subset) != 2}
    message = r"no cell has .* the paths 'nst \+ soft_target'. .* each of the 8 subsets"
    with pytest.raises(UserError, match=message):
        found_in(storage(tmp_path, strategies=kept))


def test_without_paths_or_without_runs_there_is_nothing_to_divide(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cell has a path"):
        cells_by_subset({"alone": {"paths": []}}, "here")
    with pytest.raises(UserError, match="the first that lacks one is 'cell 3'"):
        found_in(storage(tmp_path, statuses={("cell 3", seed): "missing" for seed in range(SEEDS)}))


def test_several_looks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="looks at 4, 8 seeds, so its cells end at different numbers"):
        found_in(storage(tmp_path, looks=(4, 8)))
