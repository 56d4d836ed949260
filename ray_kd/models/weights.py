"""Weights from files and from torchvision: read safely, and loaded as a whole or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import nn

from ray_kd.config.errors import UserError, unknown
from ray_kd.config.files import is_published, weights_file
from ray_kd.config.screen import logger
from ray_kd.models.base import StagedModel, State
from ray_kd.models.pickles import DamagedError
from ray_kd.models.torch_files import read_torch
from ray_kd.models.weight_entries import named_tensors
from ray_kd.models.weight_fit import compare, require

LOG = logger(__name__)


def begin_with(model: StagedModel, weights: str, fresh_head: bool = False, key: str | None = None) -> None:
    """Load a model's weights from a file, or those that torchvision publishes.

    On the meta device a file's names alone are held against the model's, whose classes and channels may be
    others than the run's; of published weights it is only asked whether there are any.

    Args:
        model: as its options say.
        weights: a file or a published name.
        fresh_head: leave the last layer as it was drawn.
        key: which of the weights in a file are meant.

    Raises:
        UserError: no such file or name, a damaged file, a download that fails, weights that do not fit.
    """
    asked = any(parameter.is_meta for parameter in model.parameters())
    if is_published(weights):
        get = model.published(weights)
        if key is not None:
            raise UserError(
                f"weights_key: expected none beside the published weights {weights}, got '{key}'."
            )
        if not asked:
            fit_weights(model, get(), weights, fresh_head=fresh_head)
        return
    own = model.own_weights(weights)
    if own is not None:
        fit_weights(model, own, weights, fresh_head, asked)
        return
    weights = weights_file(weights)
    file = Path(weights)
    if not file.is_file():
        raise UserError(
            f"weights: no file '{weights}'; expected a file (.safetensors, .pt, .pth), a folder that has one "
            "as Hugging Face's libraries write it, or a published name in capitals (IMAGENET1K_V2)."
        )
    fit_weights(model, read_weights(file.read_bytes(), weights, model, key), weights, fresh_head, asked)


def read_weights(data: bytes, source: str, model: nn.Module, key: str | None = None) -> State:
    """Those weights in the bytes of a .safetensors or .pt file that are meant for a network.

    Nothing in the file is executed.

    Args:
        data: the file's content.
        source: the file, for messages.
        model: the network.
        key: the entry of the file that is meant; None: the one that fits.

    Raises:
        UserError: the file is damaged, holds no weights, or holds several that fit.
    """
    try:
        found = _content(data, source)
    except DamagedError as error:
        raise UserError(f"{source}: damaged, or no file of weights: {error}.") from error
    entry = named_tensors(found, source, model, key)
    notes = [*([f"'{entry.key}' in it is read"] if entry.key else []), *entry.notes]
    if notes:
        _warn_once(f"{source}: {', '.join(notes)}")
    return entry.state


def _content(data: bytes, source: str) -> Any:
    if not data:
        raise DamagedError("it is empty")
    if data.startswith(b"version https://git-lfs"):
        raise DamagedError("it is a pointer of Git LFS and not the file; 'git lfs pull' fetches that")
    if data.lstrip()[:1] == b"<":
        raise DamagedError("it is a web page: the download gave another thing than the file")
    if source.endswith(".safetensors") or data[8:9] == b"{":
        return _safetensors(data)
    return read_torch(data)


def _safetensors(data: bytes) -> State:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 + size:
        raise DamagedError("it was cut short, or is no .safetensors: its header is not all there")
    try:
        json.loads(data[8 : 8 + size])
    except ValueError as error:
        raise DamagedError("its header is not the JSON that a .safetensors begins with") from error
    try:
        with torch.device("cpu"):
            state: State = load_safetensors(data)
    except Exception as error:
        raise DamagedError("its header describes other values than it holds: it was cut short") from error
    return state


@lru_cache(maxsize=256)
def _warn_once(text: str) -> None:
    """Warn once in a process, though a network is built again and again."""
    LOG.warning(text)


def fit_weights(
    model: nn.Module, state: State, source: str, fresh_head: bool = False, asked: bool = False
) -> None:
    """Load weights into a model, all of them.

    Args:
        model: whose ``last_layers`` and ``surplus`` say what may be left out, where it has them.
        state: weights by name.
        source: where they come from, for messages.
        fresh_head: leave the last layers as they are.
        asked: only ask whether the names are the model's; load nothing.

    Raises:
        UserError: says what was loaded, what is missing, unexpected, or of another shape, and why.
    """
    fit = compare(model, state, fresh_head, names_only=asked)
    require(fit, model, source)
    if asked:
        return
    model.load_state_dict(fit.given)
    LOG.info("%s: %s", source, fit)


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
