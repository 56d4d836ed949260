"""Corruptions: partners of another class, pure functions of seed, step and samples, and true moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ray_kd.paths.corruption import Corruption, corrupt, favourite, other_class
from ray_kd.testing.scenes import on_two_ranks

KINDS: list[Corruption] = ["shuffle", "shuffle_fixed", "noise"]
COUNT = 60


def batch(seed: int = 0, classes: int = 6) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    sample = torch.randperm(1000, generator=draw)[:COUNT]
    return {"sample": sample, "label": sample % classes}


def target(of: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows that tell whose they are."""
    draw = torch.Generator().manual_seed(1)
    table = torch.randn(1000, 3, generator=draw)
    return {"a": table[of["sample"]], "b": of["sample"].double().view(-1, 1, 1) + torch.zeros(1, 2, 2)}


@pytest.mark.parametrize("classes", [2, 3, 10, 60])
def test_shuffle_is_a_permutation_to_other_classes(classes: int) -> None:
    for step in range(20):
        label = torch.arange(COUNT) % classes
        partner = other_class(torch.arange(COUNT), label, seed=0, name="x", step=step)
        assert sorted(partner.tolist()) == list(range(COUNT))
        assert (label[partner] != label).all()


def test_shuffle_with_a_class_of_more_than_half() -> None:
    label = torch.tensor([0] * 5 + [1])
    partner = other_class(torch.arange(6), label, seed=0, name="x", step=0)
    assert sorted(partner.tolist()) == list(range(6))
    assert (partner != torch.arange(6)).all()
    alone = other_class(torch.tensor([4]), torch.tensor([0]), seed=0, name="x", step=0)
    assert alone.tolist() == [0]


def test_shuffle_is_redrawn_and_even() -> None:
    """Over many steps every partner of another class is about as frequent as any other."""
    label = torch.arange(12) % 3
    counts = torch.zeros(12, 12)
    for step in range(1200):
        partner = other_class(torch.arange(12), label, seed=3, name="x", step=step)
        counts[torch.arange(12), partner] += 1
    expected = (label[:, None] != label[None, :]) * 150.0
    assert (counts - expected).abs().max() < 75


def test_fixed_partner_stays_while_it_is_there() -> None:
    whole = batch()
    partner = favourite(whole["sample"], whole["label"], 0, "x")
    assert (whole["label"][partner] != whole["label"]).all()
    for row in range(0, COUNT, 7):
        others = [other for other in range(0, COUNT, 5) if other not in (row, int(partner[row]))]
        few = torch.tensor([row, *others, int(partner[row])])
        found = favourite(whole["sample"][few], whole["label"][few], 0, "x")
        assert int(few[found[0]]) == int(partner[row])


def test_fixed_partner_is_always_of_one_wrong_class() -> None:
    liked: dict[int, set[int]] = {}
    for seed in range(20):
        here = batch(seed)
        labels = here["label"][favourite(here["sample"], here["label"], 0, "x")]
        for sample, label in zip(here["sample"].tolist(), labels.tolist(), strict=True):
            liked.setdefault(sample, set()).add(label)
    assert max(len(labels) for labels in liked.values()) == 1
    assert {label for labels in liked.values() for label in labels} == set(range(6))


def test_favourite_in_one_class_is_another_sample() -> None:
    partner = favourite(torch.arange(5), torch.zeros(5, dtype=torch.long), 0, "x")
    assert (partner != torch.arange(5)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_the_batch_does_not_matter(kind: Corruption) -> None:
    here = batch()
    order = torch.randperm(COUNT)
    there = {key: values[order] for key, values in here.items()}
    one, other = corrupt(kind, target(here), here, 4, 0), corrupt(kind, target(there), there, 4, 0)
    for key in one:
        torch.testing.assert_close(one[key][order], other[key])


@pytest.mark.parametrize("kind", KINDS)
def test_one_partner_for_all_entries_and_what_changes_it(kind: Corruption) -> None:
    here = batch()
    given = target(here)
    spoilt = corrupt(kind, given, here, 4, 0, "x")
    if kind != "noise":
        partner = spoilt["b"][:, 0, 0].long()
        rows = [here["sample"].tolist().index(i) for i in partner.tolist()]
        assert torch.equal(spoilt["a"], given["a"][rows])
    changed = {
        "step": corrupt(kind, given, here, 5, 0, "x"),
        "seed": corrupt(kind, given, here, 4, 1, "x"),
        "name": corrupt(kind, given, here, 4, 0, "y"),
    }
    for what, other in changed.items():
        fixed = kind == "shuffle_fixed" and what == "step"
        assert torch.equal(spoilt["a"], other["a"]) == fixed, what


def test_noise_has_the_moments_of_each_entry() -> None:
    here = {"sample": torch.arange(5000), "label": torch.zeros(5000, dtype=torch.long)}
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(5000, 4, generator=draw) * torch.tensor([0.1, 1, 5, 0]) + torch.tensor(
        [3.0, 0, -2, 7]
    )
    spoilt = corrupt("noise", {"z": values.half()}, here, 0, 0)["z"]
    assert spoilt.dtype == torch.float16
    torch.testing.assert_close(spoilt.float().mean(0), values.mean(0), atol=0.2, rtol=0.02)
    torch.testing.assert_close(spoilt.float().std(0), values.std(0), atol=0.02, rtol=0.05)
    both = torch.stack([spoilt[:, 1].float(), values[:, 1]])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.06


def test_noise_in_place_of_classes_is_classes_that_occur() -> None:
    of = batch()
    classes = (of["sample"] % 3 + 2).view(-1, 1).expand(-1, 5).contiguous()
    spoilt = corrupt("noise", {"class": classes}, of, step=0, seed=0)["class"]
    assert spoilt.dtype == torch.int64
    assert set(spoilt.flatten().tolist()) == {2, 3, 4}


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_spoil_the_global_batch(kind: Corruption) -> None:
    whole = batch()
    halves = [{key: values[rank::2] for key, values in whole.items()} for rank in range(2)]
    wanted = corrupt(kind, target(whole), whole, 7, 0)
    found = on_two_ranks(lambda rank: corrupt(kind, target(halves[rank]), halves[rank], 7, 0))
    for rank in range(2):
        for key, values in found[rank].items():
            torch.testing.assert_close(values, wanted[key][rank::2])


def test_dense_labels_take_any_other_sample() -> None:
    here = {"sample": torch.arange(8), "label": torch.zeros(8, 2, 2, dtype=torch.long)}
    spoilt = corrupt("shuffle", {"z": torch.arange(8.0)}, here, 0, 0)["z"]
    assert sorted(spoilt.tolist()) == list(range(8))
    assert (spoilt != torch.arange(8.0)).all()
