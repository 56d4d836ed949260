"""Which samples a split holds: seeded shares, even over classes where the classes are known."""

from __future__ import annotations

import numpy as np

from ray_kd.config.errors import UserError
from ray_kd.random_streams import key


def stratified_order(labels: np.ndarray, seed: int, name: str) -> np.ndarray:
    """All indices in an order of which every stretch holds the classes in even shares.

    Args:
        labels: the class of each sample (N,).
        seed, name: key of the order.
    """
    random = np.random.Generator(np.random.Philox(key(seed, name)))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + random.random(len(members))) / len(members)
    return np.argsort(place, kind="stable")


def keep_labels(
    left: np.ndarray, classes: np.ndarray, budget: int | None, label_seed: int | None, name: str
) -> np.ndarray:
    """The samples of a training split whose labels a budget keeps; a smaller one is part of a larger one.

    Args:
        left: the indices of the training split (L,), in the order of ``stratified_order``.
        classes: the class of each sample of the whole set (N,).
        budget: labels to keep; None: all.
        label_seed: key of the choice; None: the first ones.
        name: the dataset's.

    Raises:
        UserError: the budget is more than there are.
    """
    if budget is None:
        return left
    if not 1 <= budget <= len(left):
        raise UserError(
            f"dataset {name}: labels: expected 1 to {len(left)} (the training split), got {budget}."
        )
    if label_seed is not None:
        left = left[stratified_order(classes[left], label_seed, f"{name} labels")]
    return left[:budget]


def hold_out(
    classes: np.ndarray,
    share: float,
    budget: int | None,
    seed: int,
    name: str,
    label_seed: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Part the given training samples into those that train and those held out for validation.

    What is held out does not depend on the budget, and a smaller budget is part of a larger one.

    Args:
        classes: the class of each sample (N,); zeroes where samples have no single class.
        share: the part held out, in [0, 1).
        budget: samples to train on; None: all that are left.
        seed, name: key of the choice; ``name`` is the dataset's.
        label_seed: key of which ones the budget keeps; None: ``seed``.

    Returns:
        Sorted indices that train, and that are held out.

    Raises:
        UserError: the budget is more than is left, or nothing is left on one side.
    """
    order = stratified_order(classes, seed, f"{name} splits")
    held = round(len(order) * share)
    if share > 0 and not 0 < held < len(order):
        raise UserError(
            f"dataset {name}: validation: a share of {share} of the {len(order)} training samples is {held}; "
            "expected at least one sample there, and one left to train on."
        )
    left = keep_labels(order[held:], classes, budget, label_seed, name)
    return np.sort(left), np.sort(order[:held])
