"""Views of one sample at a time, for images of any size: torchvision's transforms under a keyed generator."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch

from ray_kd.data.base import RawSplit
from ray_kd.data.views import Views
from ray_kd.streams import key

Raw = dict[str, Any]
"""A sample as ``RawSplit.raw`` gives it."""


@contextmanager
def drawing(*parts: int | str) -> Iterator[None]:
    """Run a block whose draws on the CPU come from the stream ``parts``, whoever draws them.

    Transforms take no generator: torchvision's draw from PyTorch's global one, others from NumPy's or
    Python's. All three are seeded, and put back afterwards. Generators of accelerators are left alone.
    """
    number = key(*parts)
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    random.seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


class SampleViews(Views):
    """The base of views that act on a raw sample; a policy implements ``show``.

    A loader calls ``sample`` in whichever process reads the file: the view is a function of the seed, the
    sample's id and the view alone, so the number of processes changes nothing.
    """

    per_sample: ClassVar[bool] = True

    @abstractmethod
    def show(self, raw: Raw, size: tuple[int, int]) -> Raw:
        """One view of a raw sample, drawn from the global generators; the image uint8 or float in [0, 1].

        Args:
            raw: as ``RawSplit.raw`` gives it; not to be changed in place.
            size: height and width to bring it to.
        """

    def sample(self, raw: Raw, split: RawSplit, index: int, view: int) -> Raw:
        """View number ``view`` of the raw sample at ``index`` of a split, for ``split.finish``."""
        return self._shown(raw, int(split.ids[index]), view, split.size)

    def _shown(self, raw: Raw, sample: int, view: int, size: tuple[int, int]) -> Raw:
        with drawing(self.options.seed, self.name, sample, view):
            return self.show(raw, size)
