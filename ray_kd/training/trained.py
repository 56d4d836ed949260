"""The student of a run that has ended, with its weights from the storage."""

from __future__ import annotations

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.models import StagedModel
from ray_kd.models.create import draw_model, fitting
from ray_kd.models.weights import fit_weights, read_weights
from ray_kd.storage import Store


def trained_student(
    spec: RunSpec,
    identity: str,
    dataset: Dataset,
    store: Store,
    file: str = "best",
    own: StagedModel | None = None,
) -> StagedModel:
    """A run's student in evaluation mode, on the CPU.

    Args:
        dataset: as the run reads it.
        file: ``best``: the weights that were best on validation; ``student``: the last ones.
        own: what the weights go into, where no spec names the student.

    Raises:
        UserError: its weights are missing, damaged, or do not fit the network.
    """
    model = own
    if model is None:
        model = draw_model(spec.student, **fitting(spec.student, spec, dataset), seed=spec.seed)
    path = f"runs/{identity}/{file}.safetensors"
    place = store.path(path)
    try:
        data = store.read(path)
    except FileNotFoundError:
        raise UserError(f"{place} is missing: a run keeps its weights until they are deleted.") from None
    fit_weights(model, read_weights(data, place, model), place)
    return model.eval()
