"""What each member of a set is worth, from what every subset reaches: on plain numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping

from ray_kd.statistics.intervals import ROUNDING

Worths = Mapping[frozenset[str], float]
"""What each subset reaches, the empty one included."""


def subsets(members: Collection[str]) -> Iterator[frozenset[str]]:
    """All subsets, the smallest first; those of equal size in the order of the members."""
    for size in range(len(members) + 1):
        yield from (frozenset(chosen) for chosen in itertools.combinations(members, size))


def shapley(worths: Worths) -> dict[str, float]:
    """The Shapley value of each member: what it adds, on average over all orders in which members can join.

    Shapley ("A value for n-person games", Contributions to the Theory of Games II, 1953): the only
    division of v(all) - v(none) that gives equal members equal parts and a member that adds nothing 0, and
    that adds up over games. So it may be taken seed by seed: the mean of the values is that of the means.

    Raises:
        ValueError: a subset is missing.

    >>> worths = {frozenset(): 0.0, frozenset("a"): 1.0, frozenset("b"): 3.0, frozenset("ab"): 3.0}
    >>> shapley(worths)
    {'a': 0.5, 'b': 2.5}
    """
    members, size = _members(worths), _size(worths)
    n, found = len(members), {}
    for member in members:
        parts = [
            (worths[subset | {member}] - worths[subset]) / (n * math.comb(n - 1, len(subset)))
            for subset in subsets([other for other in members if other != member])
        ]
        found[member] = _plain(math.fsum(parts), size)
    return found


def leave_one_out(worths: Worths) -> dict[str, float]:
    """What the whole set loses without each member: v(all) - v(all others).

    Raises:
        ValueError: a subset is missing.
    """
    members, size = _members(worths), _size(worths)
    whole = frozenset(members)
    return {one: _plain(worths[whole] - worths[whole - {one}], size) for one in members}


def _members(worths: Worths) -> list[str]:
    members = sorted(frozenset().union(*worths))
    missing = [sorted(subset) for subset in subsets(members) if subset not in worths]
    if missing:
        raise ValueError(f"no value of the subset {missing[0]}: expected one of every subset of {members}")
    return members


def _size(worths: Worths) -> float:
    return max(map(abs, worths.values()))


def _plain(value: float, size: float) -> float:
    """The value; 0 where it is nothing but the rounding of the numbers it comes from."""
    return 0.0 if abs(value) <= ROUNDING * size else value
