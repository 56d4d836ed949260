"""Records which objects and code of the user a run was made of, and refuses to resume it with other ones.

A spec's identity knows everything that a spec says. It cannot know objects handed to ``distill``, nor what
a ``factory`` function builds; ``objects.json`` keeps enough of them that another one is seen, and named.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, zip_longest
from typing import Any, cast

import torch
from torch import nn

from ray_kd.config.errors import UserError
from ray_kd.config.options import Options
from ray_kd.config.spec import RunSpec
from ray_kd.data.base import Dataset
from ray_kd.data.sample_checks import SPLITS, CheckedSplit
from ray_kd.models.create import draw_model
from ray_kd.models.factory import FactoryOptions, find
from ray_kd.models.tapped import TappedModel
from ray_kd.storage import Store, shapes
from ray_kd.teacher.live import digest_of
from ray_kd.training.network_checks import made
from ray_kd.training.records import OBJECTS, read_summary

LABELS_KEPT = 32
"""Samples of a set, evenly spread, whose labels are kept."""
NAMED = 3
"""Differences that a message names."""
BEGAN = "began"
"""Where a record of an own student has the digest of the weights that it began with."""

Description = dict[str, Any]


@dataclass
class Own:
    """A user's own objects in place of what the spec names; see ``distill``."""

    student: nn.Module | None = None
    teacher: nn.Module | None = None
    dataset: Dataset | None = None
    key: str | None = None
    described: Description = field(default_factory=dict)
    """What ``describe_own`` says of them as they were handed over."""


def require_live(spec: RunSpec, own: Own) -> None:
    """Whether a run of own objects asks its teacher itself: what they are, no store of targets can know."""
    stored = spec.targets.source == "stored" and bool(spec.active_paths())
    if stored and (own.teacher is not None or own.dataset is not None):
        raise UserError("targets: stored: expected the spec's own teacher and dataset, got own objects.")


def describe_own(own: Own) -> Description:
    """A user's own objects, as they are before training changes them."""
    found: Description = {}
    if own.key is not None:
        found["key"] = own.key
    if own.student is not None:
        found["student"] = _described(own.student) | {BEGAN: weights_digest(own.student)}
    if own.teacher is not None:
        found["teacher"] = _described(own.teacher) | {"weights": weights_digest(own.teacher)}
    if own.dataset is not None:
        found["dataset"] = describe_dataset(own.dataset)
    return found


def _described(model: nn.Module) -> Description:
    return {"parameters": sum(value.numel() for value in model.parameters()), **describe_network(model)}


def weights_digest(model: nn.Module) -> str:
    """16 hexadecimal digits of an own network's weights under its own names."""
    return digest_of(as_handed_over(model))


def describe_network(model: nn.Module, *builders: Callable[..., Any]) -> Description:
    """A network: class, layers and shapes of tensors; its weights are what training changes."""
    model = as_handed_over(model)
    classes = {type(module) for module in model.modules()}
    own = [cls for cls in classes if not _is_library(cls)]
    methods = [value for cls in own for value in vars(cls).values() if inspect.isfunction(value)]
    layers = re.sub(r" at 0x[0-9a-f]+", "", str(model)).splitlines()
    return {
        "class": type(model).__qualname__,
        "module": type(model).__module__,
        "tensors": {name: list(value.shape) for name, value in model.state_dict().items()},
        "layers": [line.strip() for line in layers],
        "code": {f"Python {sys.version_info[0]}.{sys.version_info[1]}": _code([*methods, *builders])},
    }


def as_handed_over(model: nn.Module) -> nn.Module:
    """An own network without what it was wrapped in, here or by ``torch.compile``."""
    if type(model) is TappedModel:  # what a network that returns logits alone is wrapped in
        model = model.net
    return cast(nn.Module, getattr(model, "_orig_mod", model))


def describe_dataset(dataset: Dataset) -> Description:
    """Own splits: type, length, a sample's shapes, and the classes of a few samples."""
    found: Description = {"classes": dataset.classes, "channels": dataset.channels}
    return found | {name: describe_split(getattr(dataset, name)) for name in SPLITS}


def describe_split(split: Any) -> Description:
    """One of own splits."""
    batch = split.gather(torch.arange(0, len(split), max(1, -(-len(split) // LABELS_KEPT))))
    under: Any = split.split if isinstance(split, CheckedSplit) else split
    given = type(under.dataset)
    columns = {key: value for key, value in batch.items() if key != "sample"}
    found = {
        "class": given.__qualname__,
        "module": given.__module__,
        "length": len(split),
        "sample": {key: [str(value.dtype), list(value.shape[1:])] for key, value in columns.items()},
    }
    return found | ({"labels": batch["label"].tolist()} if "label" in batch else {})


def describe_code(spec: RunSpec, classes: int, channels: int) -> Description:
    """The networks of a run that code outside ray-kd builds; empty where there is none."""
    found = {where: _built(options, classes, channels) for where, options in own_code(spec).items()}
    return {"size": {"classes": classes, "channels": channels}, **found} if found else {}


def own_code(spec: RunSpec) -> dict[str, Options]:
    """The networks of a run that a factory or a plug-in makes, by where the spec has them."""
    networks = {"student": spec.student}
    networks |= {f"teachers.{name}.model": spec.teachers[name].model for name in spec.needed_teachers()}
    return {
        where: options
        for where, options in networks.items()
        if isinstance(options, FactoryOptions) or not type(options).__module__.startswith("ray_kd.")
    }


def require_same(store: Store, directory: str, spec: RunSpec, own: Own | None = None) -> None:
    """Refuse to take up a run, ended or left, that was made of other objects or by other code."""
    if (own is None and not own_code(spec)) or not _is_taken_up(store, directory):
        return
    folder = store.path(directory)
    how = "fresh=True" if own is not None else "fresh=True (--fresh)"
    start_over = f"start over by {how}, which takes its place once it has finished"
    try:
        known: Description = store.read_json(f"{directory}/{OBJECTS}", shapes.Objects)
    except FileNotFoundError:
        if own is None:
            return  # of a version that kept no such record; the spec alone tells it from others
        raise UserError(
            f"distill: key '{own.key}' names a run ({folder}) that has no record of its objects: it is not "
            f"known whether it was made of these. Give them another key, or {start_over}."
        ) from None
    found = dict(own.described) if own is not None else {}
    if "size" in known:
        found |= describe_code(spec, known["size"]["classes"], known["size"]["channels"])
    changed = list(islice(differences(known, found), NAMED))
    if changed and own is not None:
        raise UserError(
            f"distill: key '{own.key}' names a run of other objects ({folder}): {'; '.join(changed)}. Give "
            f"these objects another key, or {start_over}."
        )
    if changed:
        raise UserError(
            f"run '{spec.name}' is known ({folder}), but code of your own makes another network now: "
            f"{'; '.join(changed)}. Raise the factory's 'revision' (a plug-in's 'version'), so that it is a "
            f"run of its own; or {start_over}."
        )


def require_same_runs(store: Store, specs: Iterable[RunSpec]) -> None:
    """The same for many runs without own objects."""
    for spec in specs:
        require_same(store, f"runs/{spec.identity()}", spec)


def differences(known: Any, found: Any, where: str = "") -> Iterator[str]:
    """What two descriptions differ in, in words."""
    if isinstance(known, dict) and isinstance(found, dict):
        for key in [*found, *(key for key in known if key not in found)]:
            key_path = f"{where}.{key}".lstrip(".")
            if key in ("module", BEGAN):
                continue  # where a class was written changes nothing: a notebook's becomes a file's
            if key == "code":
                same = found[key].keys() & known[key] if isinstance(known.get(key), dict) else ()
                if any(None is not known[key][v] != found[key][v] is not None for v in same):
                    yield f"{where}: the code of its classes is another"
            elif key not in known or key not in found:
                yield f"{key_path} {'is new' if key in found else 'is gone'}"
            else:
                yield from differences(known[key], found[key], key_path)
    elif known != found:
        if isinstance(known, list) and isinstance(found, list) and max(len(known), len(found)) > 6:
            pairs = zip_longest(known, found)
            index, known, found = next((i, a, b) for i, (a, b) in enumerate(pairs) if a != b)
            where = f"{where}[{index}]"
        yield f"{where} was {known}, is {found}"


def _is_taken_up(store: Store, directory: str) -> bool:
    """Whether a run's end or its state is there to be taken up; one that failed trains anew."""
    summary = read_summary(store, directory)
    if summary is not None:
        return bool(summary["status"] != "failed")
    return store.exists(f"{directory}/checkpoints")


def _built(options: Options, classes: int, channels: int) -> Description:
    """What a network's own code builds, without memory where it can be."""
    builders = []
    if isinstance(options, FactoryOptions):
        builders.append(find(options.build))
    make = partial(draw_model, options, classes=classes, channels=channels, seed=0)
    model = made(f"model '{options.component_name}'", make)
    net = cast(nn.Module, model.net) if isinstance(options, FactoryOptions) else model
    return describe_network(net, *builders)


def _is_library(cls: type) -> bool:
    """Whether a class is of an installed package, ours included."""
    if cls.__module__.partition(".")[0] in ("torch", "torchvision", "ray_kd"):
        return True
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _code(functions: Iterable[Callable[..., Any]]) -> str | None:
    """A digest of functions' code, comments and docstrings left out; None where it is not to be had."""
    texts = []
    for function in functions:
        try:
            text = textwrap.dedent(inspect.getsource(function))
            tree = ast.parse(text)
        except SyntaxError:
            texts.append(text)
            continue
        except (OSError, TypeError):
            return None
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        texts.append(ast.dump(tree))
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:16]
