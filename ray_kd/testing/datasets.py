"""DatasetConformance: what every dataset must do, as tests that a plug-in subclasses."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.options import Options, parse_component
from ray_kd.config.registry import DATASETS
from ray_kd.data.base import Dataset, LabelOptions, Split, is_raw
from ray_kd.data.create import create_dataset
from ray_kd.data.sample_checks import COLUMNS, SPLITS
from ray_kd.testing.state import assert_same


class DatasetConformance:
    """Subclass it and name your dataset; pytest does the rest, on the first samples of each split.

    Data that lie in files need a small valid copy: write one, and name it in ``options``.

    Example:
        >>> from ray_kd.plugin import DatasetConformance
        >>> class TestMine(DatasetConformance):
        ...     dataset = "digits"
    """

    dataset: ClassVar[str]
    """The registered name."""
    options: ClassVar[dict[str, Any]] = {}
    """Options to test it with."""
    samples: ClassVar[int] = 16
    """How many samples of each split are read."""

    @property
    def cls(self) -> type[Dataset]:
        """The class under test."""
        found: type[Dataset] = DATASETS.get(self.dataset)
        return found

    def parsed(self, **options: Any) -> Options:
        """The dataset's own ``Options``."""
        found: Options = parse_component(DATASETS, {"name": self.dataset, **self.options, **options})
        return found

    def make(self, **options: Any) -> Dataset:
        """The dataset as a run loads it: every sample that it gives is checked."""
        return create_dataset(self.parsed(**options))

    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        dataset = self.make()
        return {name: getattr(dataset, name) for name in SPLITS}

    def first(self, split: Split) -> Tensor:
        """The indices of the samples that are read."""
        return torch.arange(min(len(split), self.samples))

    def test_three_splits_share_no_sample(self) -> None:
        splits = self.splits()
        for name, split in splits.items():
            assert len(split) > 0, name
            assert split.ids.dtype == torch.int64, name
            assert split.ids.shape == (len(split),), name
        ids = torch.cat([split.ids for split in splits.values()])
        values, counts = ids.unique(return_counts=True)
        assert values[counts > 1].tolist() == [], "ids that two samples have"

    def test_samples_have_what_the_tasks_need(self) -> None:
        """Shapes, kinds and ranges of values are looked at as a run looks at them."""
        dataset = self.make()
        assert self.cls.tasks
        for name in SPLITS:
            split = getattr(dataset, name)
            index = self.first(split)
            batch = split.gather(index)
            assert batch["image"].dtype == torch.float32, name
            assert batch["image"].shape[:2] == (len(index), dataset.channels), name
            assert torch.equal(batch["sample"], split.ids[index]), name
            for task in self.cls.tasks:
                assert COLUMNS.get(task, "image") in batch, f"{name}: for {task}"
            for column, values in batch.items():
                assert len(values) == len(index), f"{name}: {column}"

    def test_what_it_says_of_its_samples_is_so(self) -> None:
        dataset = self.make()
        shape = self.cls.image_shape(self.parsed())
        for name in SPLITS:
            split = getattr(dataset, name)
            image = split.gather(self.first(split))["image"]
            assert shape in (None, tuple(image.shape[1:])), f"{name}: image_shape"
        for task in self.cls.tasks:
            assert dataset.classes_of(task) >= 1, task
        for values in (dataset.mean, dataset.std):
            assert values is None or len(values) == dataset.channels
        assert (dataset.mean is None) == (dataset.std is None)

    def test_a_sample_is_the_same_in_any_batch(self) -> None:
        """Read twice, alone, in another order: other samples of the batch change no value."""
        for name, split in self.splits().items():
            index = self.first(split)
            batch, again = split.gather(index), split.gather(index)
            turned = split.gather(index.flip(0))
            for column, values in batch.items():
                assert torch.equal(again[column], values), f"{name}: {column}: read twice"
                assert torch.equal(turned[column].flip(0), values), f"{name}: {column}: in another order"
            alone = split.gather(index[-1:])
            for column in ("image", "label", "mask"):
                if column in batch:
                    assert torch.equal(alone[column][0], batch[column][-1]), f"{name}: {column}: alone"

    def test_it_loads_equal_and_draws_from_no_global_stream(self) -> None:
        before = torch.get_rng_state()
        one, other = self.splits(), self.splits()
        for name, split in one.items():
            index = self.first(split)
            assert torch.equal(split.ids, other[name].ids), name
            assert_same(split.gather(index), other[name].gather(index))
        assert torch.equal(torch.get_rng_state(), before), "the dataset drew from the global stream"

    def test_it_travels_to_a_process_that_loads(self) -> None:
        for split in self.splits().values():
            index = self.first(split)
            there = pickle.loads(pickle.dumps(split))  # noqa: S301
            assert_same(there.gather(index), split.gather(index))

    def test_files_are_read_alike_by_every_way(self) -> None:
        """Of splits that are read from files, one by one: ``gather`` gives their finished rows."""
        for name in SPLITS:
            split: Any = getattr(self.cls(self.parsed()), name)  # type: ignore[call-arg]
            if not is_raw(split):
                continue
            row = split.finish(split.fit(split.raw(0)))
            assert tuple(row["image"].shape[1:]) == tuple(split.size), name
            ready = split.ready({column: values[None] for column, values in row.items()})
            assert_same({**ready, "sample": split.ids[:1]}, split.gather(torch.tensor([0])))

    def test_options_say_what_it_is(self) -> None:
        """Identity: options survive a spec, and where files lie is none of it."""
        options = self.parsed()
        assert parse_component(DATASETS, options.full()) == options
        assert options.essence()["name"] == self.dataset
        fields = type(options).model_fields
        paths = [
            name
            for name in fields
            if isinstance(getattr(options, name), (str, Path)) and Path(getattr(options, name)).exists()
        ]
        assert set(paths) <= set(options.places), "options that name a place on this machine are 'places'"

    def test_other_labels_are_kept_under_another_key(self) -> None:
        """Where labels can be limited, ``label_seed`` chooses which are kept, and nothing else."""
        if not isinstance(self.parsed(), LabelOptions):
            return
        whole = self.make(labels=None)
        budget = max(1, len(whole.train) // 2)
        found = [self.make(labels=budget, label_seed=seed) for seed in range(6)]
        kept = [tuple(dataset.train.ids.tolist()) for dataset in found]
        assert all(len(ids) == budget and set(ids) <= set(whole.train.ids.tolist()) for ids in kept)
        assert budget == len(whole.train) or len(set(kept)) > 1, "label_seed changes nothing"
        for dataset in found:
            for name in ("validation", "test"):
                assert torch.equal(getattr(dataset, name).ids, getattr(whole, name).ids), name

    def test_mistakes_are_named(self) -> None:
        with pytest.raises(UserError, match="no_such_option"):
            self.make(no_such_option=1)
