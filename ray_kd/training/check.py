"""Whether a run's parts fit together, asked before anything trains: not even a teacher."""

from __future__ import annotations

import json
from typing import Any

import torch

from ray_kd.aggregation import create_aggregator
from ray_kd.config.errors import UserError
from ray_kd.config.plan import Plan
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.paths import create_path
from ray_kd.training.parts import static_weight


def check_run(spec: RunSpec) -> None:
    """Build student, teachers, paths and aggregator without memory, on the meta device.

    Raises:
        UserError: stages that do not exist, widths that do not match, an aggregator that cannot take
            these paths.
    """
    try:
        with torch.device("meta"):
            _build(spec)
    except UserError:
        raise
    except Exception:
        return  # a component that cannot be built this way; the run itself will build it for real


def check_plan(plan: Plan) -> None:
    """The same for every trial that is known beforehand, each combination of parts once.

    Raises:
        UserError: names the cell.
    """
    seen: set[str] = set()
    for trial in plan.trials:
        parts = json.dumps(_essence(trial.spec), sort_keys=True)
        if parts in seen:
            continue
        seen.add(parts)
        try:
            check_run(trial.spec)
        except UserError as error:
            raise UserError(f"sweep '{plan.name}', {trial.cell}: {error}") from None


def _build(spec: RunSpec) -> None:
    size = {"classes": 10, "channels": 3}  # the data's own sizes change no stage
    student = create_model(spec.student, **size)
    teachers = {name: create_model(teacher.model, **size) for name, teacher in spec.teachers.items()}
    paths = [
        create_path(
            options,
            student_channels=student.stage_channels,
            teacher_channels=teachers[spec.teacher_of(options)].stage_channels,
        )
        for options in spec.active_paths()
    ]
    create_aggregator(
        spec.aggregation,
        names=[name for path in paths for name in path.keys],
        weights={path.label: static_weight(path) for path in paths},
    )


def _essence(spec: RunSpec) -> list[Any]:
    teachers = {name: teacher.model.essence() for name, teacher in spec.teachers.items()}
    paths = [path.essence() for path in spec.active_paths()]
    return [spec.student.essence(), teachers, paths, spec.aggregation.essence()]
