"""Finds the weights in what a file holds: which entry is meant for a network, its names without wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError, unknown
from ray_kd.models.base import State
from ray_kd.models.pickles import Unread

USUAL = ("state_dict", "model_state_dict", "model", "student", "net")
"""Keys under which training scripts save a model's weights: which of several is shown where none fits."""
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpointing put into names, wherever they wrap a module."""
DEEP = 2
"""How many keys may lie between a file and its weights."""
CLOSE = 0.9
"""An entry that fits so nearly as well as the best could be meant too."""


@dataclass(frozen=True)
class Entry:
    """Weights in a file.

    Attributes:
        key: where they lie, keys joined by '/'; empty: the file is nothing else.
        state: weights by name.
        notes: what was left out of the names, as messages say it.
    """

    key: str
    state: State
    notes: tuple[str, ...] = ()


def named_tensors(found: Any, source: str, model: nn.Module, key: str | None = None) -> Entry:
    """The weights in what a file holds that are meant for a network.

    Args:
        found: what the file holds.
        source: the file, for messages.
        model: the network; the entry that fits it is meant, where no ``key`` says which.
        key: the entry that is meant, or what the names begin with that are.

    Raises:
        UserError: there are none, there is none of that key, or several fit.
    """
    own = {n: v for n, v in model.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    surplus = tuple(getattr(model, "surplus", ()))
    found_in = list(_entries(found, "", 0))
    if not found_in:
        raise UserError(
            f"{source}: no weights in it: expected names with their tensors, a state_dict (or a mapping that "
            f"holds one), got {_what(found)}."
        )
    if key is not None:
        found_in = [_by_key(found_in, key, source)]
    entries = [_unwrapped(entry, own.keys()) for entry in found_in]
    scores = [_score(entry.state, own, surplus) for entry in entries]
    best = max(scores)
    if best == (0, 0):
        usual = [name for name in USUAL if any(entry.key.endswith(name) for entry in entries)]
        return max(entries, key=lambda e: (bool(usual) and e.key.endswith(usual[0]), len(e.state)))
    whole = [entry for entry, score in zip(entries, scores, strict=True) if score == (1, 1)]
    close = [
        entry
        for entry, score in zip(entries, scores, strict=True)
        if all(part >= CLOSE * most for part, most in zip(score, best, strict=True))
    ]
    chosen = whole if len(whole) == 1 else close
    if any(not _equal(chosen[0].state, other.state) for other in chosen[1:]):
        keys = [entry.key or "the file itself" for entry in chosen]
        raise UserError(
            f"{source}: it holds weights for this network more than once, under "
            f"{' and '.join(map(repr, keys))}; say which ones with weights_key "
            f"(weights_key: {chosen[-1].key})."
        )
    return chosen[0]


def _entries(value: Any, key: str, depth: int) -> Iterator[Entry]:
    """Everything in a file that has names with tensors."""
    network = _network(value)
    if network is not None:
        if network:
            yield Entry(key, network, ("a whole network, of which its weights are read",))
        return
    parts = _parts(value)
    tensors = {name: tensor_of(inner) for name, inner in parts.items()}
    state = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if state:
        yield Entry(key, state)
    if depth < DEEP:
        for name, inner in parts.items():
            yield from _entries(inner, f"{key}/{name}" if key else name, depth + 1)


def _parts(value: Any) -> dict[str, Any]:
    """What a mapping holds by name, or an object that was not made."""
    found = dict(value) if isinstance(value, Mapping) else {}
    if isinstance(value, Unread) and isinstance(value.state, Mapping):
        found |= value.state
    return {name: inner for name, inner in found.items() if isinstance(name, str)}


def _network(value: Any, above: tuple[int, ...] = ()) -> State | None:
    """The weights of a network that was pickled whole, named as in its ``state_dict``; None: it is none."""
    state = value.state if isinstance(value, Unread) else None
    if not isinstance(state, Mapping) or not all(
        isinstance(state.get(part), Mapping) for part in ("_parameters", "_buffers", "_modules")
    ):
        return None
    passing = state.get("_non_persistent_buffers_set", ())
    own = {**state["_parameters"], **{n: v for n, v in state["_buffers"].items() if n not in passing}}
    found = {str(name): tensor for name, tensor in own.items() if isinstance(tensor, Tensor)}
    for name, child in state["_modules"].items():
        if id(child) not in above:
            inner = _network(child, (*above, id(value))) or {}
            found |= {f"{name}.{rest}": tensor for rest, tensor in inner.items()}
    return found


def tensor_of(value: Any) -> Tensor | None:
    """A tensor, or a NumPy array that a pickle describes, as a tensor; None: it is neither."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, Unread) or not value.made_of.startswith("numpy."):
        return None
    try:
        if value.made_of.endswith(".multiarray._reconstruct"):
            _, shape, kind, backwards, raw = value.state
        elif value.made_of.endswith(".numeric._frombuffer"):
            raw, kind, shape, order = value.arguments
            backwards = order == "F"
        else:
            return None
        code = f"{kind.state[1]}{kind.arguments[0]}"
        values = np.frombuffer(bytearray(raw), np.dtype(code))
        return torch.from_numpy(values.reshape(shape, order="F" if backwards else "C"))
    except Exception:  # of another kind, or described wrongly: it is not read
        return None


def _by_key(entries: list[Entry], key: str, source: str) -> Entry:
    """The entry of that key, or the weights of an entry whose names begin with it."""
    for entry in entries:
        if key in (entry.key, entry.key.rpartition("/")[2]):
            return entry
    for entry in entries:
        inner = {n.removeprefix(f"{key}."): v for n, v in entry.state.items() if n.startswith(f"{key}.")}
        if inner:
            return replace(entry, state=inner, notes=(f"of its names those that begin with '{key}.'",))
    names = {entry.key for entry in entries if entry.key}
    begin = {name.partition(".")[0] for entry in entries for name in entry.state if "." in name}
    raise unknown("weights_key", key, names | begin, source)


def _unwrapped(entry: Entry, own: Any) -> Entry:
    """The same weights without what wrappers put before and into their names."""
    state, notes = dict(entry.state), list(entry.notes)
    for wrapper in WRAPPERS:
        bare = {name.replace(wrapper, ""): value for name, value in state.items()}
        if bare.keys() != state.keys() and len(bare) == len(state):
            state = bare
            notes.append(f"'{wrapper}' in its names left out")
    others = state.keys() - {"n_averaged"}
    if len(others) < len(state) and others and all(name.startswith("module.") for name in others):
        del state["n_averaged"]
        notes.append("an average over steps (n_averaged)")
    firsts = [name.split(".")[:-1] for name in state]
    common: list[str] = []
    for parts in zip(*firsts, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    prefixes = [".".join(common[:count]) + "." if count else "" for count in range(len(common) + 1)]
    fits = [sum(name.removeprefix(prefix) in own for name in state) for prefix in prefixes]
    prefix = prefixes[fits.index(max(fits))]
    if prefix:
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes.append(f"'{prefix}' before every name left out")
    return Entry(entry.key, state, tuple(notes))


def _score(state: State, own: Mapping[str, Tensor], surplus: tuple[str, ...]) -> tuple[float, float]:
    """How much of a network and of the weights is the same, by name and shape and by name alone, 0 to 1.

    Of parameters alone: averages of weights often come without BatchNorm's statistics.
    """
    wanted = {name for name, value in own.items() if isinstance(value, nn.Parameter)} or set(own)
    given = {n for n in state if n in wanted or not (n in own or n.startswith(surplus or ("\0",)))}
    shared = wanted & given
    same = {name for name in shared if own[name].shape == state[name].shape}
    every = len(wanted | given) or 1
    return len(same) / every, len(shared) / every


def _equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        one[n].shape == other[n].shape and torch.equal(one[n], other[n]) for n in one
    )


def _what(found: Any) -> str:
    """What a file holds, in words."""
    if isinstance(found, Unread):
        return f"an object of '{found.made_of}', which is not run"
    if not isinstance(found, Mapping):
        return f"'{type(found).__name__}'"
    entries = [
        f"{key} (an object of '{value.made_of}')" if isinstance(value, Unread) else str(key)
        for key, value in list(found.items())[:5]
    ]
    return f"a mapping of {', '.join(entries) or 'nothing'}"
