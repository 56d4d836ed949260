"""Weights from files and from torchvision: read safely, fitted whole, and said clearly where they do not."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from ray_kd.config.errors import UserError, unknown
from ray_kd.config.files import is_published
from ray_kd.models.base import StagedModel, State

LOG = logging.getLogger(__name__)

CONTAINERS = ("state_dict", "model_state_dict", "model", "student", "net")
"""Keys under which training scripts save a model's weights beside other things."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel, DDP and torch.compile put before every name."""


def begin_with(model: StagedModel, weights: str, fresh_head: bool = False) -> None:
    """Load a model's weights from a file, or those that torchvision publishes; what is missing is said.

    On the meta device it is only asked whether they are there.

    Args:
        model: as its options say.
        weights: a file or a published name.
        fresh_head: leave the last layer as it was drawn.

    Raises:
        UserError: no such file or name, a damaged file, a download that fails, weights that do not fit.
    """
    get = model.published(weights) if is_published(weights) else _file(weights)
    if any(parameter.is_meta for parameter in model.parameters()):
        return
    fit_weights(model, get(), weights, fresh_head=fresh_head)


def _file(weights: str) -> Callable[[], State]:
    place = Path(weights)
    if not place.is_file():
        raise UserError(
            f"weights: no file '{weights}'; expected a file (.safetensors, .pt, .pth) or a name that "
            "torchvision publishes, in capitals (IMAGENET1K_V2)."
        )
    return lambda: read_weights(place.read_bytes(), weights)


def read_weights(data: bytes, place: str) -> State:
    """Weights from the bytes of a .safetensors or .pt file; nothing in it is executed.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    try:
        if place.endswith(".safetensors"):
            found: Any = load_safetensors(data)
        else:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{place}: damaged, or no file of weights ({reason}).") from error
    return named_tensors(found, place)


def named_tensors(found: Any, place: str) -> State:
    """The mapping of names to tensors in what a file holds, without the prefixes of wrappers.

    Raises:
        UserError: there is none.
    """
    inner = found
    for _ in range(2):
        if isinstance(inner, Mapping) and not all(isinstance(value, Tensor) for value in inner.values()):
            inner = next((inner[key] for key in CONTAINERS if isinstance(inner.get(key), Mapping)), inner)
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(v, Tensor) for v in inner.values()):
        what = type(found).__name__
        if isinstance(found, Mapping):
            what = f"a mapping of {', '.join(map(str, list(found)[:5])) or 'nothing'}"
        raise UserError(
            f"{place}: expected names with their tensors, a state_dict (or one below "
            f"{', '.join(CONTAINERS)}), got {what}."
        )
    state = {str(name): value for name, value in inner.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            LOG.info("%s: '%s' before every name left out", place, prefix)
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def fit_weights(model: nn.Module, state: State, place: str, fresh_head: bool = False) -> None:
    """Load weights into a model, all of them.

    Args:
        model: whose ``last_layers`` and ``surplus`` say what may be left out, where it has them.
        state: weights by name.
        place: where they come from, for messages.
        fresh_head: leave the last layers as they are.

    Raises:
        UserError: says which names are missing, unexpected, or of another shape.
    """
    own = model.state_dict()
    last = tuple(f"{name}." for name in getattr(model, "last_layers", ()))
    surplus = tuple(getattr(model, "surplus", ()))
    # Files older than BatchNorm's counter of batches lack it; nothing here reads it.
    counters = {name: own[name] for name in own.keys() - state.keys() if name.endswith("num_batches_tracked")}
    given = {
        **counters,
        **{n: v for n, v in state.items() if n in own or not n.startswith(surplus or ("\0",))},
    }
    if fresh_head and last:
        given = {name: value for name, value in given.items() if not name.startswith(last)}
        given |= {name: value for name, value in own.items() if name.startswith(last)}
    other = sorted(name for name in own.keys() & given.keys() if own[name].shape != given[name].shape)
    groups = {
        "missing": sorted(own.keys() - given.keys()),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": other,
    }
    problems = [f"{len(names)} {what} ({_some(names)})" for what, names in groups.items() if names]
    if problems:
        hint = ""
        if last and any(name.startswith(last) for name in other):
            name = next(name for name in other if name.startswith(last))
            hint = (
                f" They tell {given[name].shape[0]} classes apart and this network {own[name].shape[0]}: "
                "'head: fresh' leaves the last layer as it was drawn."
            )
        raise UserError(
            f"{place}: the weights do not fit {type(model).__name__}: {'; '.join(problems)}.{hint}"
        )
    model.load_state_dict(given)


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def torchvision_weights(arch: str, weights: str, where: str) -> Callable[[], State]:
    """How to get the weights that torchvision publishes for one of its architectures.

    Raises:
        UserError: unknown name.
    """
    from torchvision.models import get_model_weights

    known = {entry.name: entry for entry in get_model_weights(arch)}
    if weights not in known:
        raise unknown("weights", weights, known, f"{where}: {arch}")
    return lambda: _fetch(known[weights], f"{arch} {weights}")


def _fetch(entry: Any, what: str) -> State:
    try:
        state: State = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"cannot fetch {what} from {entry.url} ({error}). Without a network, put that file into {folder} "
            "under its own name (TORCH_HOME moves that folder), or give its path as 'weights'."
        ) from error
    return state
