"""Teachers from the store, by identity, or from a file of weights."""

from __future__ import annotations

from pathlib import Path as FilePath

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.spec import INITIAL, RunSpec
from ray_kd.models import StagedModel, create_model
from ray_kd.storage import Store


def load_teacher(spec: RunSpec, name: str, store: Store, classes: int, channels: int) -> StagedModel:
    """Teacher ``name`` of a run, with its trained weights (those that were best on validation).

    A teacher of permuted labels comes with its last weights: validation, whose labels are true, would
    choose those that learnt least of what it was taught.

    Raises:
        UserError: the teacher was not trained yet, or its weights are damaged or do not fit the model.
    """
    teacher = spec.teachers[name]
    model = create_model(teacher.model, classes=classes, channels=channels, seed=teacher.seed)
    if teacher.weights == INITIAL:
        return model
    if teacher.weights is not None:
        place, state = teacher.weights, read_weights(FilePath(teacher.weights).read_bytes(), teacher.weights)
    else:
        file = "student" if teacher.training.labels == "permuted" else "best"
        place = f"runs/{spec.teacher_run(name).identity()}/{file}.safetensors"
        try:
            state = read_weights(store.read(place), store.path(place))
        except FileNotFoundError:
            raise UserError(
                f"teacher '{name}' is not trained yet ({store.path(place)} is missing); "
                "run 'ray-kd teacher RUN.yaml' first."
            ) from None
    fit_weights(model, state, place)
    return model


def read_weights(data: bytes, place: str) -> dict[str, Tensor]:
    """Weights from the bytes of a .safetensors or .pt file; nothing in it is executed.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    try:
        if place.endswith(".safetensors"):
            return load_safetensors(data)
        import io

        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return dict(state.get("state_dict", state))
    except Exception as error:
        raise UserError(f"{place}: damaged, or no file of weights ({error}).") from error


def fit_weights(model: torch.nn.Module, state: dict[str, Tensor], place: str) -> None:
    """Load weights into a model, all of them.

    Raises:
        UserError: says which names are missing, unexpected, or of another shape.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    other = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", surplus),
            ("of another shape", sorted(other)),
        )
        if names
    ]
    if problems:
        raise UserError(f"{place}: the weights do not fit {type(model).__name__}: {'; '.join(problems)}.")
    model.load_state_dict(state)
