"""A run on record, as far as its export needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_kd.analysis.reader import Folder
from ray_kd.analysis.run_files import Row, read_runs
from ray_kd.config.errors import UserError
from ray_kd.config.options import OwnOptions
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Store
from ray_kd.training.records import find_summary


@dataclass(frozen=True)
class ToExport:
    """A finished run.

    Attributes:
        file: the file of its weights, without its ending.
        epoch: of these weights.
        metric: the figure that chose the best epoch.
        recorded: that figure of these weights on the test split.
        device: where the run was measured: cpu, cuda.
        paths: its record of paths, epoch by epoch.
        teachers: what is known of each, in words, those included that taught a teacher alone.
    """

    identity: str
    spec: RunSpec
    file: str
    epoch: int
    metric: str
    recorded: float
    device: str
    paths: list[Row]
    teachers: dict[str, str]


def read_run(store: Store, identity: str, last: bool = False) -> ToExport:
    """A run that can be exported.

    Raises:
        UserError: it has not finished, or its record is damaged.
    """
    directory = f"runs/{identity}"
    files = read_runs(Folder(store), [identity])[identity]
    summary = files.summary
    if summary is None or summary["status"] != "finished":
        state = "has not finished" if summary is None else f"is {summary['status']} ({summary.get('reason')})"
        raise UserError(f"export: run {identity} {state}; expected a finished run.")
    if not files.spec:
        raise UserError(f"export: {store.path(f'{directory}/spec.yaml')} is missing or damaged.")
    spec = RunSpec.parse(files.spec, where=f"run {identity}")
    figures: dict[str, Any] = summary["last" if last else "best"]
    metric = str(summary["monitor"])
    teachers = dict.fromkeys([*spec.needed_teachers(), *reversed(spec.all_teachers())])
    return ToExport(
        identity,
        spec,
        "student" if last else "best",
        int(figures["epoch"]),
        metric,
        float(figures["test"][metric]),
        str(files.environment.get("device", "cpu")).partition(":")[0],
        files.paths,
        {name: _teacher(store, spec, name) for name in teachers},
    )


def _teacher(store: Store, spec: RunSpec, name: str) -> str:
    """What is known of a teacher."""
    teacher = spec.teachers[name]
    if isinstance(teacher.model, OwnOptions):
        return f"a module of its user's own ({teacher.model.described()})"
    options = teacher.model.model_dump(mode="json", exclude_defaults=True)
    model = " ".join([teacher.model.component_name, *(f"{key}={value}" for key, value in options.items())])
    if teacher.weights is not None:
        return f"{model}, weights {teacher.weights}"
    run = spec.teacher_run(name)
    paths = [
        f"{path.label or path.component_name} from {run.teacher_of(path)}" for path in run.active_paths()
    ]
    taught = f"; itself taught along {', '.join(paths)}" if paths else ""
    try:
        identity = run.identity()
    except UserError:  # a file that it began with is gone
        return model + taught
    summary = find_summary(store, identity) or {}
    metric, test = summary.get("monitor"), (summary.get("best") or {}).get("test") or {}
    figure = f", test {metric} {test[metric]:.4f}" if metric in test else ""
    return f"{model}, run {identity}{figure}{taught}"
