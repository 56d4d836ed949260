"""Every file in sweeps/: it is valid, its plan is what its comment says, and its models train a step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from ray_kd.config.cells import strategy_name
from ray_kd.config.plan import Plan
from ray_kd.config.registry import AGGREGATORS
from ray_kd.config.spec import INITIAL, RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.data.batches import Batches
from ray_kd.models import create_model
from ray_kd.storage import Store
from ray_kd.teacher import LiveTeacher
from ray_kd.training.parts import build
from ray_kd.training.resident import Resident
from ray_kd.training.setting import Setting
from ray_kd.training.step import Step

FOLDER = Path(__file__).parents[2] / "sweeps"
SWEEPS = sorted(FOLDER.glob("*.yaml"))
ABLATIONS = {"utility_ablation", "utility_ablation_full"}
"""Compare forms of one strategy, with its default as the baseline."""
RUNS = sorted((FOLDER / "runs").glob("*.yaml"))


class Untaught(Resident):
    """Teachers as they are initialised: what a file builds does not depend on their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.teachers: dict[tuple[str, str], LiveTeacher] = {}

    def teacher(self, spec: RunSpec, name: str, store: Store, device: torch.device) -> LiveTeacher:
        task = spec.task.component_name
        key = (str(spec.teachers[name].model.full()), str([spec.dataset.component_name, task]))
        if key not in self.teachers:
            dataset = self.dataset(spec.dataset, device)
            model = create_model(
                spec.teachers[name].model, classes=dataset.classes_of(task), channels=dataset.channels
            )
            self.teachers[key] = LiveTeacher(model, device)
        return self.teachers[key]


RESIDENT = Untaught()


@cache
def loaded(file: Path) -> tuple[SweepSpec, Plan]:
    """A sweep and its plan."""
    sweep = SweepSpec.load(file)
    return sweep, sweep.plan()


def kinds(spec: RunSpec) -> tuple[str, str]:
    """What has to be built to know that a trial can be built: its parts, numbers aside."""
    paths = [(path.component_name, path.label, path.teacher, path.stages) for path in spec.active_paths()]
    options = {key: value for key, value in spec.aggregation.full().items() if isinstance(value, (str, bool))}
    batch = spec.training.batch_size
    return str([paths, options]), str([spec.student, spec.dataset, batch])


def some_of_each(plan: Plan) -> Iterator[tuple[str, RunSpec]]:
    """Trials that show every combination of paths and aggregation, and every student and dataset."""
    seen: set[str] = set()
    for trial in plan.trials:
        if not seen.issuperset(kinds(trial.spec)):
            seen.update(kinds(trial.spec))
            yield trial.cell, trial.spec


def take_a_step(spec: RunSpec, folder: Path) -> None:
    setting = Setting(Store(folder), torch.device("cpu"))
    parts = build(spec, setting, RESIDENT)
    batches = Batches(parts.dataset.train, parts.views, spec.training.batch_size, spec.seed, setting.device)
    step = Step(spec, parts, setting, batches.steps)
    batch = next(batches.epoch(0))
    before = [parameter.detach().clone() for parameter in parts.student.parameters()]
    parts.aggregator.begin_epoch(None)
    for path in parts.paths:
        path.begin_epoch(0)  # type: ignore[operator]
    step(batch, parts.targets.targets(batch))
    assert bool(torch.isfinite(step.sums).all())
    changed = zip(before, parts.student.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in changed)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_is_valid_and_every_kind_of_trial_trains_a_step(file: Path, tmp_path: Path) -> None:
    sweep, plan = loaded(file)
    assert sweep.name == file.stem
    for cell, spec in some_of_each(plan):
        try:
            take_a_step(spec, tmp_path)
        except Exception as error:
            raise AssertionError(f"{file.name}, cell '{cell}': {error}") from error


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_says_how_to_run_it_and_compares_with_a_baseline(file: Path) -> None:
    sweep, plan = loaded(file)
    assert f"ray-kd sweep sweeps/{file.name}" in file.read_text()
    assert sweep.baseline is not None
    if file.stem in ABLATIONS:
        return
    assert "student alone" in sweep.baseline
    baselines = [trial for trial in plan.trials if strategy_name(trial.cell, trial.axes) == sweep.baseline]
    assert all(not trial.spec.paths for trial in baselines)
    assert sweep.controls
    controls = [trial for trial in plan.trials if trial.phase == "control"]
    for control in controls:
        assert "2x epochs" in control.cell
        (epochs,) = {
            trial.spec.training.epochs
            for trial in baselines
            if trial.phase == "compare" and trial.spec.task == control.spec.task
        }
        assert control.spec.training.epochs == 2 * epochs
    assert {trial.spec.task for trial in controls} == {trial.spec.task for trial in plan.trials}


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_a_run_is_valid_and_trains_a_step(file: Path, tmp_path: Path) -> None:
    take_a_step(RunSpec.load(file), tmp_path)


def test_the_judgement_is_made_of_what_it_needs() -> None:
    """Steps for the measurements, one student and budget that utility was not designed on, 20 seeds."""
    for file in (FOLDER / "judge_utility.yaml", FOLDER / "judge_utility_full.yaml"):
        sweep, plan = loaded(file)
        specs = [trial.spec for trial in plan.trials if trial.phase == "compare"]
        assert len(sweep.seeds) >= 20
        for spec in specs[:: len(sweep.seeds)]:
            labels = spec.dataset.labels  # type: ignore[attr-defined]
            steps = spec.training.epochs * (labels // spec.training.batch_size)
            assert steps >= 2 * 500  # the first 500 hold 100 measurements
    cut = {trial.spec.student for trial in loaded(FOLDER / "judge_utility.yaml")[1].trials}
    assert all(student.width != 4 for student in cut)  # type: ignore[attr-defined]


def test_every_aggregator_is_in_the_sweep_of_all() -> None:
    specs = [trial.spec for trial in loaded(FOLDER / "aggregation_digits.yaml")[1].trials]
    assert set(AGGREGATORS.names()) == {spec.aggregation.component_name for spec in specs if spec.paths}
    full = loaded(FOLDER / "fair_digits_full.yaml")[1]
    fair = {trial.spec.aggregation.component_name for trial in full.trials if trial.spec.paths}
    assert set(AGGREGATORS.names()) - fair == {"ae_kd"}  # it takes paths of the logits alone


def test_no_dataset_but_those_at_hand() -> None:
    """A test must not download anything."""
    for file in RUNS:
        spec = RunSpec.load(file)
        assert spec.dataset.component_name in ("digits", "scenes")
        assert all(teacher.weights in (None, INITIAL) for teacher in spec.teachers.values())
