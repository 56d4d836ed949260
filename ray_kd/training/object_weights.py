"""The weights of a user's own student, where a run goes on or is found: no call takes others in silence."""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load as safetensors_of

from ray_kd.config.screen import logger
from ray_kd.models.compiled import load_own_state, own_state
from ray_kd.storage import Store, shapes
from ray_kd.training.object_records import BEGAN, Own, as_handed_over, weights_digest
from ray_kd.training.records import OBJECTS

LOG = logger(__name__)


def go_on(own: Own | None, store: Store, directory: str) -> None:
    """Say so where a run that goes on from its state began with other weights than those handed over now.

    The record keeps those that it began with.
    """
    if own is None or own.student is None:
        return
    began, given = _began(store, directory), own.described["student"][BEGAN]
    own.described["student"][BEGAN] = began
    if began != given:
        LOG.warning(
            "%s goes on from its saved state. It began with other weights of the student (digest %s) than "
            "those handed over now (%s), which are not used. Where that matters, give these another key.",
            _named(own, store, directory),
            began,
            given,
        )


def take_found(own: Own | None, store: Store, directory: str) -> None:
    """Give an own student the last weights of the run that is found in place of one that trains.

    Says so where the run began with other weights than those handed over, unless these are its last ones.
    """
    if own is None or own.student is None:
        return
    began, given = _began(store, directory), own.described["student"][BEGAN]
    named, file = _named(own, store, directory), f"{directory}/student.safetensors"
    try:
        state = safetensors_of(store.read(file))
        net = as_handed_over(own.student)
        whole = own_state(net)
        load_own_state(net, {name: state.get(name, value) for name, value in whole.items()})
        last = weights_digest(own.student)
    except (FileNotFoundError, SafetensorError) as error:
        LOG.warning("%s is found, and the student keeps the weights it came with: %s.", named, error)
        return
    if given not in (began, last):
        LOG.warning(
            "%s is found, and not trained again. It began with other weights of the student (digest %s) than "
            "those handed over now (%s), and the student has the run's last weights now. Where that matters, "
            "give these weights another key.",
            named,
            began,
            given,
        )


def _began(store: Store, directory: str) -> str | None:
    known = store.find_json(f"{directory}/{OBJECTS}", shapes.Objects) or {}
    found = known.get("student", {}).get(BEGAN)
    return None if found is None else str(found)


def _named(own: Own, store: Store, directory: str) -> str:
    return f"distill: the run of key '{own.key}' ({store.path(directory)})"
