"""What networks of timm and of transformers share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.models.blank import in_mode
from ray_kd.models.tapped import TappedModel
from ray_kd.models.taps import Size


class LibraryModel(TappedModel):
    """A network of a library, built for the images of the dataset.

    Attributes:
        channels: of an image.
        size: height and width that it was built for.
    """

    sized: ClassVar[bool] = True
    channels: int
    size: Size

    def measure_for(self, size: Size, published: Size, default: bool) -> None:
        """Look at the network with images of a size.

        Args:
            published: the size that its weights were published for.
            default: nobody named its taps.

        Raises:
            UserError: it does not take such images, or a tap gives no feature map.
        """
        try:
            self.measure(self.channels, size)
        except UserError as error:
            hint = " Or name other taps (taps: [] where no path reads features)." if default else ""
            raise UserError(f"{error}{hint}") from error
        except Exception as error:
            told = (str(error).strip().splitlines() or [""])[0][:200]
            raise UserError(
                f"{self.where}: it fails on images of {size[0]} x {size[1]} ({type(error).__name__}: "
                f"{told}); expected a size that it takes (its own is {published[0]} x {published[1]}), or "
                "another patch size or depth in its arguments or its configuration."
            ) from error


def pooled_head(model: TappedModel, channels: int, parts: Iterable[object]) -> nn.Module:
    """The first of some parts that gives a network's logits for the pooled features (N, C) of its last tap.

    It is found by trying it on two random images in evaluation mode, since names do not tell whether anything
    (a norm, a convolution, the choice of a class token) lies between the tap and the head.

    Raises:
        AttributeError: none does.
    """
    device = next(model.parameters()).device
    if model.described and device.type != "meta":
        image = torch.randn(2, channels, *model.described[-1].image, generator=torch.Generator())
        with in_mode(model, training=False):
            outputs = model(image.to(device))
            for head in _heads(parts):
                if _same(head, outputs.features[-1].mean(dim=(2, 3)), outputs.logits):
                    return head
    raise AttributeError(f"{model.where} has no head on the pooled features of its last tap")


def _same(head: nn.Module, pooled: Tensor, logits: Tensor | None) -> bool:
    if logits is None or torch.equal(logits[0], logits[1]):
        return False  # a head that begins with zeros says the same of every feature
    try:
        found = head(pooled)
    except Exception:  # it takes something else
        return False
    return found.shape == logits.shape and torch.allclose(found, logits, atol=1e-4)


def _heads(parts: Iterable[object]) -> Iterator[nn.Module]:
    """Each part as it is, and as one that takes a map of one position."""
    for part in parts:
        if isinstance(part, nn.Module):
            yield part
            yield nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), part).eval()


def quarters(names: Sequence[str]) -> Iterable[str]:
    """The last of every quarter."""
    return (names[len(names) * part // 4 - 1] for part in (1, 2, 3, 4))
