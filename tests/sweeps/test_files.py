"""Every file in sweeps/: it is valid, its plan is what its comment says, and its models train a step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from ray_kd.config.cells import VARY, strategy_name
from ray_kd.config.chance import SOURCES
from ray_kd.config.errors import UserError
from ray_kd.config.files import INITIAL
from ray_kd.config.options import Options
from ray_kd.config.plan import Plan, Trial
from ray_kd.config.registry import AGGREGATORS
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.config.yamlio import read_yaml
from ray_kd.data.base import Dataset
from ray_kd.data.batches import Batches
from ray_kd.models import create_model
from ray_kd.storage import Store
from ray_kd.teacher import LiveTeacher
from ray_kd.training.build import build
from ray_kd.training.preflight import check_plan
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run_context import RunContext
from ray_kd.training.step import Step
from tests.helpers import daily
from tests.sweeps.stubs import PUBLIC, at_hand, stub

FOLDER = Path(__file__).parents[2] / "sweeps"
SWEEPS = sorted(FOLDER.glob("*.yaml"))
ABLATIONS = {"utility_ablation", "utility_ablation_full"}
"""Compare forms of one strategy, with its default as the baseline."""
RUNS = sorted((FOLDER / "runs").glob("*.yaml"))


def is_public(file: Path) -> bool:
    """Whether a file is about data that nobody brings along."""
    data = read_yaml(file)
    run = data.get("base", data)
    run = run if isinstance(run, dict) else read_yaml(file.parent / run)
    return run["dataset"]["name"] in PUBLIC


PUBLIC_SWEEPS = [file for file in SWEEPS if is_public(file)]
PUBLIC_RUNS = [file for file in RUNS if is_public(file)]


class Untaught(ProcessCache):
    """Teachers as they are initialised, and stubs of public data: what a file builds depends on neither."""

    def __init__(self) -> None:
        super().__init__()
        self.teachers: dict[tuple[str, str], LiveTeacher] = {}

    def dataset(self, options: Options, device: torch.device) -> Dataset:
        name = options.component_name
        return stub(name) if name in PUBLIC else super().dataset(options, device)

    def teacher(
        self, spec: RunSpec, name: str, store: Store, device: torch.device, own: Dataset | None = None
    ) -> LiveTeacher:
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


def task_of(trial: Trial) -> str:
    """The name of a trial's task; options of one task do not make two."""
    return trial.spec.task.component_name


def kinds(spec: RunSpec) -> tuple[str, str]:
    """What has to be built to know that a trial can be built: its parts, numbers aside."""
    paths = [(path.component_name, path.label, path.teacher, path.stages) for path in spec.active_paths()]
    options = {key: value for key, value in spec.aggregation.full().items() if isinstance(value, (str, bool))}
    batch = spec.training.batch_size
    return str([paths, options]), str([spec.student, spec.dataset, batch])


def some_of_each(plan: Plan) -> Iterator[tuple[str, RunSpec]]:
    """Runs that show every combination of paths and aggregation, and every student and dataset: of trials,
    and of the teachers that other teachers train."""
    seen: set[str] = set()
    runs = [(trial.cell, trial.spec) for trial in plan.trials]
    for cell, spec in [*runs, *(("teacher", run) for run in plan.teachers if run.active_paths())]:
        if not seen.issuperset(kinds(spec)):
            seen.update(kinds(spec))
            yield cell, spec


def take_a_step(spec: RunSpec, folder: Path) -> None:
    context = RunContext(Store(folder), torch.device("cpu"))
    parts = build(spec, context, RESIDENT)
    batches = Batches(parts.dataset.train, parts.views, spec.training.batch_size, spec.seed, context.device)
    step = Step(spec, parts, context, batches.steps)
    batch = next(batches.epoch(0))
    before = [parameter.detach().clone() for parameter in parts.student.parameters()]
    parts.aggregator.begin_epoch(None)
    for path in parts.paths:
        path.begin_epoch(0)  # type: ignore[operator]
    step(batch, parts.targets.targets(batch))
    assert bool(torch.isfinite(step.sums).all())
    changed = zip(before, parts.student.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in changed)


@cache
def with_every_path() -> dict[Path, list[tuple[str, RunSpec]]]:
    """Of each sweep on public data the trial with most paths, and those that bring a student another path."""
    chosen: dict[Path, list[tuple[str, RunSpec]]] = {}
    seen: set[str] = set()
    for file in PUBLIC_SWEEPS:
        chosen[file] = []
        for trial in sorted(loaded(file)[1].trials, key=lambda trial: -len(trial.spec.paths)):
            student = str(trial.spec.student)
            shown = {student + (path.label or path.component_name) for path in trial.spec.active_paths()}
            if not chosen[file] or not seen.issuperset(shown):
                seen |= shown
                chosen[file].append((trial.cell, at_hand(trial.spec)))
    return chosen


LOCAL_SWEEPS = [file for file in SWEEPS if not is_public(file)]


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=pytest.mark.exhaustive) if file.stem.endswith("_full") else file
        for file in LOCAL_SWEEPS
    ],
    ids=[file.stem for file in LOCAL_SWEEPS],
)
def test_a_sweep_is_valid_and_every_kind_of_trial_trains_a_step(file: Path, tmp_path: Path) -> None:
    steps_of(file, list(some_of_each(loaded(file)[1])), tmp_path)


@pytest.mark.parametrize("file", PUBLIC_SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_on_public_data_fits_together(file: Path) -> None:
    check_plan(loaded(file)[1])


@pytest.mark.slow
@pytest.mark.parametrize("file", daily(PUBLIC_SWEEPS), ids=lambda file: file.stem)
def test_a_sweep_on_public_data_trains_steps_on_stubs(file: Path, tmp_path: Path) -> None:
    steps_of(file, with_every_path()[file], tmp_path)


def steps_of(file: Path, trials: list[tuple[str, RunSpec]], tmp_path: Path) -> None:
    assert loaded(file)[0].name == file.stem
    for cell, spec in trials:
        try:
            take_a_step(spec, tmp_path)
        except Exception as error:
            raise AssertionError(f"{file.name}, cell '{cell}': {error}") from error


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_says_how_to_run_it_and_compares_with_a_baseline(file: Path) -> None:
    sweep, plan = loaded(file)
    assert f"ray-kd sweep sweeps/{file.name}" in file.read_text()
    if VARY in sweep.axes:  # compares sources of chance, and no strategies
        assert {source for trial in plan.trials for source in trial.vary} == set(SOURCES)
        return
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
            if trial.phase == "compare" and task_of(trial) == task_of(control)
        }
        assert control.spec.training.epochs == 2 * epochs
    assert {task_of(trial) for trial in controls} == {task_of(trial) for trial in plan.trials}


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_a_run_is_valid_and_trains_a_step(file: Path, tmp_path: Path) -> None:
    spec = RunSpec.load(file)
    assert f"ray-kd train sweeps/runs/{file.name}" in file.read_text()
    if file in PUBLIC_RUNS:  # the base of a sweep, whose test trains it
        assert f"base: runs/{file.name}" in (FOLDER / file.name).read_text()
        shown = with_every_path()[FOLDER / file.name]
        paths = {path.component_name for _, trial in shown for path in trial.active_paths()}
        assert {path.component_name for path in spec.active_paths()} <= paths
    else:
        take_a_step(spec, tmp_path)


@pytest.mark.parametrize("file", PUBLIC_RUNS, ids=lambda file: file.stem)
def test_without_its_data_a_run_says_what_is_expected_where(file: Path, tmp_path: Path) -> None:
    spec = RunSpec.load(file, f"dataset.root={tmp_path}/none")
    assert spec.identity() == RunSpec.load(file).identity()
    with pytest.raises(UserError) as error:
        ProcessCache().dataset(spec.dataset, torch.device("cpu"))
    for words in (spec.dataset.component_name, f"{tmp_path}/none' does not exist", "Set dataset.root"):
        assert words in str(error.value)


def test_the_judgement_is_made_of_what_it_needs() -> None:
    """Steps for the measurements, one student and budget that utility was not designed on, ten seeds."""
    for file in (FOLDER / "judge_utility.yaml", FOLDER / "judge_utility_full.yaml"):
        sweep, plan = loaded(file)
        specs = [trial.spec for trial in plan.trials if trial.phase == "compare"]
        assert len(sweep.seeds) >= 10
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
        spec = at_hand(spec) if file in PUBLIC_RUNS else spec
        assert spec.dataset.component_name in ("digits", "scenes", *PUBLIC)
        assert all(teacher.weights in (None, INITIAL) for teacher in spec.teachers.values())
        models = (spec.student, *(teacher.model for teacher in spec.teachers.values()))
        fetched = [getattr(model, key, None) for model in models for key in ("weights", "backbone_weights")]
        assert not any(fetched)
