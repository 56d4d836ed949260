"""Load teachers: from the storage by identity, from a weight file, or published weights."""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load as safetensors_of

from ray_kd.config.errors import UserError
from ray_kd.config.files import INITIAL
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.models import StagedModel, create_model
from ray_kd.models.create import draw_model, fitting
from ray_kd.models.weights import begin_with, fit_weights, read_weights
from ray_kd.storage import Store, tell_once


def load_teacher(spec: RunSpec, name: str, store: Store, dataset: Dataset) -> StagedModel:
    """Teacher ``name`` of a run, with the weights that were best on validation.

    A teacher of permuted labels has its last weights: validation, whose labels are not permuted, would
    choose the epoch that has learnt least from the permuted labels.

    Raises:
        UserError: the teacher is not trained yet, or its weights are damaged or do not fit the model.
    """
    teacher = spec.teachers[name]
    run = spec if teacher.weights is not None else spec.teacher_run(name)
    own = run.dataset.full() == spec.dataset.full()
    size = {**fitting(teacher.model, run, dataset, own), "seed": teacher.seed}
    if teacher.weights == INITIAL:
        return create_model(teacher.model, **size)
    model = draw_model(teacher.model, **size)
    if teacher.weights is not None:
        begin_with(model, teacher.weights, key=teacher.weights_key)
        return model
    place = weights_of(spec, name)
    try:
        state = read_weights(store.read(place), store.path(place), model)
    except FileNotFoundError:
        raise UserError(
            f"teacher '{name}' is not trained yet ({store.path(place)} is missing); "
            "run 'ray-kd teacher RUN.yaml' first."
        ) from None
    fit_weights(model, state, place)
    return model


def weights_of(spec: RunSpec, name: str) -> str:
    """The path below the storage of a trained teacher's weights."""
    file = "student" if spec.teachers[name].training.labels == "permuted" else "best"
    return f"runs/{spec.teacher_run(name).identity()}/{file}.safetensors"


def is_whole(spec: RunSpec, name: str, store: Store) -> bool:
    """Whether a trained teacher's weights exist and can be read; if not, a warning is given once."""
    place = weights_of(spec, name)
    try:
        safetensors_of(store.read(place))
    except FileNotFoundError:
        tell_once(f"{store.path(place)} is missing. The teacher '{name}' trains again.")
        return False
    except SafetensorError as error:
        tell_once(f"{store.path(place)} is damaged ({error}). The teacher '{name}' trains again.")
        return False
    return True
