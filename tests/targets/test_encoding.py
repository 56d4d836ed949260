"""Targets as bytes, and back."""

from __future__ import annotations

import pytest
import torch

from ray_kd.targets.encoding import Encoding

PLAIN = [Encoding((3, 5), "float32"), Encoding((3, 5), "float16"), Encoding((3, 5), "int8")]


@pytest.mark.parametrize("encoding", PLAIN, ids=lambda one: one.precision)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_decoding_is_within_the_stated_error(encoding: Encoding, scale: float) -> None:
    values = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0)) * scale
    stored = encoding.encode(values)
    assert stored.dtype == torch.uint8
    assert stored.shape == (40, encoding.nbytes)
    back = encoding.decode(stored)
    assert back.dtype == torch.float32
    assert ((back - values).abs().flatten(1).amax(1) <= encoding.error(values)).all()
    if encoding.precision == "float32":
        assert torch.equal(back, values)


@pytest.mark.parametrize("encoding", PLAIN, ids=lambda one: one.precision)
def test_rows_are_encoded_by_themselves(encoding: Encoding) -> None:
    values = torch.randn(6, 3, 5)
    values[2] *= 1000
    assert torch.equal(encoding.encode(values)[3:4], encoding.encode(values[3:4]))
    assert torch.equal(encoding.decode(encoding.encode(torch.zeros(2, 3, 5))), torch.zeros(2, 3, 5))


def test_what_float16_cannot_hold_is_clamped_not_infinite() -> None:
    encoding = Encoding((1,), "float16")
    assert encoding.decode(encoding.encode(torch.tensor([[1e6], [-1e6]]))).flatten().tolist() == [
        65504,
        -65504,
    ]


def test_the_top_k_keep_their_probabilities_and_the_others_share_the_rest() -> None:
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(1)) * 3
    encoding = Encoding.of(logits, "float32", top_k=7)
    assert encoding.nbytes == 44  # 7 x (4 + 2), rounded up to words of 4
    found = encoding.decode(encoding.encode(logits)).softmax(1)
    wanted = logits.softmax(1)
    top = wanted.topk(7, dim=1)
    torch.testing.assert_close(found.gather(1, top.indices), top.values, rtol=2e-2, atol=1e-5)
    rest = found.scatter(1, top.indices, 0.0)
    torch.testing.assert_close(rest.sum(1), 1 - top.values.sum(1), rtol=2e-2, atol=2e-3)
    others = rest[rest > 0].view(20, 43)
    torch.testing.assert_close(others, others[:, :1].expand_as(others))


def test_few_classes_keep_all_of_them() -> None:
    assert Encoding.of(torch.randn(2, 5), "float16", top_k=5).top_k is None
    assert Encoding.of(torch.randn(2, 5, 4), "int8", top_k=2).top_k is None


@pytest.mark.parametrize("values", [torch.tensor([[1, -1, 40000]]), torch.tensor([[True, False]])])
def test_what_is_no_float_is_kept_exactly(values: torch.Tensor) -> None:
    encoding = Encoding.of(values, "int8")
    back = encoding.decode(encoding.encode(values))
    assert back.dtype == values.dtype
    assert torch.equal(back, values)
    assert Encoding.from_json(encoding.to_json()) == encoding
