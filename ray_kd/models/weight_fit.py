"""How weights fit a network: what was loaded, what was not, and the likely reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.models.base import State

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Fit:
    """What of a file's weights fits a network.

    Attributes:
        given: the weights to load, counters and a fresh head that the file lacks among them.
        loaded: names whose weights come from the file.
        missing: names of the network that the file lacks.
        unexpected: names of the file that the network lacks.
        other: names of another shape, with the file's and the network's.
        unfit: names whose values are of another kind: whole numbers for fractions, sparse, quantised.
        left_out: names of the file that nothing reads, by intent.
    """

    given: State
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other: Shapes
    unfit: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    last: tuple[str, ...] = field(default=())

    @property
    def whole(self) -> bool:
        """Whether all of them can be loaded."""
        return not (self.missing or self.unexpected or self.other or self.unfit)

    def __str__(self) -> str:
        count = len(self.loaded) + len(self.missing) + len(self.other) + len(self.unfit)
        parts = [
            f"{len(self.loaded)} of {count} loaded" if self.whole else f"{len(self.loaded)} of {count} fit"
        ]
        shapes = [f"{name} {given}, here {own}" for name, (given, own) in self.other.items()]
        groups = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": shapes,
            "of another kind than the network's fractions": self.unfit,
            "not needed": self.left_out,
        }
        parts += [f"{len(names)} {what} ({_some(names)})" for what, names in groups.items() if names]
        return "; ".join(parts)


def compare(model: nn.Module, state: State, fresh_head: bool = False, names_only: bool = False) -> Fit:
    """Hold weights against a network.

    Args:
        model: whose ``last_layers`` and ``surplus`` say what may be left out, where it has them.
        state: weights by name.
        fresh_head: the last layers stay as they are.
        names_only: shapes may differ: the network is one for other classes and channels.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    last = tuple(f"{name}." for name in getattr(model, "last_layers", ()))
    surplus = tuple(getattr(model, "surplus", ()))
    # Files older than BatchNorm's counter of batches lack it; nothing here reads it.
    given = {name: own[name] for name in own.keys() - state.keys() if name.endswith("num_batches_tracked")}
    if fresh_head and last:
        given |= {name: value for name, value in own.items() if name.startswith(last)}
    left_out = [
        name
        for name in state
        if (name not in own and name.startswith(surplus or ("\0",)))
        or (fresh_head and last and name.startswith(last))
    ]
    taken = {name: value for name, value in state.items() if name not in left_out}
    shared = [name for name in own if name in taken]
    other = {
        n: (tuple(taken[n].shape), tuple(own[n].shape)) for n in shared if taken[n].shape != own[n].shape
    }
    if names_only:
        other = {}
    unfit = tuple(name for name in shared if name not in other and not _of_a_kind(taken[name], own[name]))
    return Fit(
        given={**given, **taken},
        loaded=tuple(name for name in shared if name not in other and name not in unfit),
        missing=tuple(sorted(own.keys() - taken.keys() - given.keys())),
        unexpected=tuple(sorted(taken.keys() - own.keys())),
        other=other,
        unfit=unfit,
        left_out=tuple(sorted(left_out)),
        last=last,
    )


def require(fit: Fit, model: nn.Module, source: str) -> None:
    """Refuse weights that do not fit as a whole, or are no numbers.

    Raises:
        UserError: the report, and the likely reason.
    """
    if not fit.whole:
        hint = reason(fit, model)
        raise UserError(
            f"{source}: the weights do not fit {type(model).__name__}: {fit}.{f' {hint}' if hint else ''}"
        )
    own = model.state_dict(keep_vars=True)
    # A buffer may hold infinities on purpose (a mask): then the freshly drawn one does too.
    broken = [
        name
        for name in fit.loaded
        if not _finite(fit.given[name])
        and (isinstance(own[name], nn.Parameter) or (not own[name].is_meta and _finite(own[name])))
    ]
    if broken:
        raise UserError(
            f"{source}: {len(broken)} of {len(fit.loaded)} weights hold NaN or infinite values "
            f"({_some(broken)}): the training that wrote them had failed. Expected finite numbers: take an "
            "earlier state of it."
        )


def reason(fit: Fit, model: nn.Module) -> str:
    """Why weights do not fit, most likely; empty where nothing is likely."""
    own = {
        name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)
    }
    reasons = [_other_names(fit, own)]
    if 2 * (len(fit.loaded) + len(fit.other)) >= len(own):
        heads = [name for name in fit.other if fit.last and name.startswith(fit.last)]
        reasons.append(_other_shapes({n: shapes for n, shapes in fit.other.items() if n not in heads}, own))
        (given, *_), (here, *_) = fit.other[heads[0]] if heads else ((0,), (0,))
        if given != here:
            reasons.append(
                f"They are for {given} classes and this network is for {here}: "
                "'head: fresh' leaves the last layer as it was drawn."
            )
    return " ".join(text for text in reasons if text)


def _other_shapes(other: Shapes, own: dict[str, tuple[int, ...]]) -> str:
    if not other:
        return ""
    name, (given, here) = next(iter(other.items()))
    positions = [n for n in other if "pos_embed" in n or "position" in n]
    if positions and len(positions) == len(other):
        count = other[positions[0]][0][-2]
        return f"They are for images of another size: the file has positions for {count} tokens."
    first = next((n for n, shape in own.items() if len(shape) == 4), "")
    if list(other) == [first] and given[0] == here[0] and len(given) == 4:
        return f"They are for images of {given[1]} channels, and these have {here[1]}."
    return f"They are those of a network of another width: {name} is {given} there and {here} here."


def _other_names(fit: Fit, own: dict[str, tuple[int, ...]]) -> str:
    given = {name: tuple(fit.given[name].shape) for name in (*fit.loaded, *fit.other, *fit.unexpected)}
    nothing = bool(fit.unexpected) and not fit.loaded and not fit.other
    if nothing and sorted(given.values()) == sorted(own.values()):
        return (
            "All shapes are the network's, under other names: the same network, written by other code "
            f"({fit.unexpected[0]} there, {fit.missing[0]} here); rename them."
        )
    for name in fit.unexpected:
        begin = name.partition(".")[0] + "."
        inner = [n.removeprefix(begin) for n in fit.unexpected if n.startswith(begin)]
        if 2 * sum(n in own for n in inner) > len(own):
            return f"Its names that begin with '{begin}' are this network's: weights_key: {begin[:-1]}."
    for name in fit.missing:
        begin = name.partition(".")[0] + "."
        if begin != name + "." and 2 * sum(f"{begin}{n}" in own for n in given) > len(own):
            return f"This network's names begin with '{begin}', which the file's lack."
    extra = fit.missing or fit.unexpected
    if not extra:
        return ""
    if 2 * (len(fit.loaded) + len(fit.other)) < len(own):
        return "Few of the names are the network's: they are those of another network."
    if fit.missing and fit.unexpected:
        return "They are those of a network that is built in another way."
    if len({n.rpartition(".")[0] for n in extra}) > 1 and any(p.isdigit() for p in extra[0].split(".")):
        who = "This network has blocks that the file lacks" if fit.missing else "The file has blocks more"
        return f"{who}: they are those of a network of another depth."
    return ""


def _of_a_kind(given: Tensor, own: Tensor) -> bool:
    plain = given.layout == torch.strided and not given.is_quantized and not given.is_meta
    return plain and (given.is_floating_point() or not own.is_floating_point()) and not given.is_complex()


def _finite(values: Tensor) -> bool:
    if not values.is_floating_point():
        return True
    return bool(torch.isfinite(values.float() if values.itemsize == 1 else values).all())


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
