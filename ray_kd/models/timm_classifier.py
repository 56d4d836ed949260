"""timm's classifiers by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ray_kd.config.errors import UserError, nearest, unknown
from ray_kd.config.registry import MODELS
from ray_kd.data.files import Size as ImageSize
from ray_kd.models.base import LibraryCall, Preprocessing, State
from ray_kd.models.library_model import LibraryModel, pooled_head, quarters
from ray_kd.models.optional import optional, quiet_hub, read_json
from ray_kd.models.taps import Size, TapOptions, TappedOptions

WHERE = "model timm"
FROM_THE_HUB = "PRETRAINED"
"""The name of the weights that timm's hub has for a model."""
OUT_OF_PLACE = ("hiera",)
"""Families whose tokens do not lie row by row."""


class TimmOptions(TappedOptions):
    """Options of timm's classifiers."""

    model: str
    """Its name in timm: resnet18, convnext_atto, vit_tiny_patch16_224; with the tag of published weights,
    resnet18.a1_in1k, where ``weights: PRETRAINED`` is to fetch them."""
    taps: tuple[str | TapOptions, ...] | None = None
    """Paths of the modules that are its stages, shallow to deep, or mappings that say more
    ({module: blocks.3, prefix: 1}); None: those of timm's feature_info from a stride of 4 on (where
    all have one resolution: the last of every quarter)."""
    image_size: ImageSize | None = None
    """Height and width (one number: a square) of the images that it is built for; None: the dataset's. Only
    networks of a fixed size read it."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of timm's create_model (patch_size, drop_path_rate, dynamic_img_size ...)."""


@MODELS.register("timm", source="timm (Hugging Face)")
class TimmClassifier(LibraryModel):
    """A classifier of timm, its modules' outputs as taps, its weights under timm's names.

    Networks of a fixed size (ViT, DeiT, Swin, Mixer) are built for the dataset's images. A distilled DeiT
    gives the mean of its two heads as logits; in training, where a path reads ``distillation``, the class
    token's head gives the logits and the distillation token's ``extra["distillation"]``.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    Options = TimmOptions

    def __init__(self, options: TimmOptions, classes: int, channels: int, size: Size | None = None) -> None:
        self.options, self.channels = options, channels
        card = card_of(options.model)
        self.size = options.image_size or size or tuple(card.input_size[1:])
        self.arguments = {"in_chans": channels, **options.arguments}
        if card.fixed_input_size:
            self.arguments.setdefault("img_size", self.size)
        net = build(options.model, num_classes=classes, **self.arguments)
        named = {"model_name": options.model, "num_classes": classes, **self.arguments}
        self._call = LibraryCall("timm.create_model", named)
        taps, self.strides = default_taps(net)
        where = f"{WHERE} ({options.model})"
        if options.model.startswith(OUT_OF_PLACE):
            if options.taps:
                raise UserError(
                    f"{where}: its tokens do not lie row by row, so it has no taps: say taps: []."
                )
            taps = ()
        super().__init__(net, taps if options.taps is None else options.taps, where)
        names = card.classifier or ()
        self.last_layers = (names,) if isinstance(names, str) else tuple(names)
        self.measure_for(self.size, tuple(card.input_size[1:]), options.taps is None)

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The classifier on the pooled last tap, of networks that have nothing else between."""
        net: Any = self.net
        return pooled_head(self, self.channels, (net.get_classifier(), getattr(net, "head", None)))

    def library_call(self) -> LibraryCall:
        return self._call

    def known_stride(self, index: int) -> int | None:
        return self.strides.get(self.taps[index].module)

    def published(self, weights: str) -> Callable[[], State]:
        name = self.options.model
        if weights != FROM_THE_HUB:
            raise UserError(
                f"{WHERE}: weights: expected a file, a folder or {FROM_THE_HUB}, got '{weights}'."
            )
        tags = tags_of(name)
        if "." not in name or not tags:
            plain = name.partition(".")[0]
            told = f", such as {plain}.{tags[0]} (tags: {', '.join(tags)})" if tags else "; timm knows none"
            raise UserError(f"{WHERE}: weights: {FROM_THE_HUB} needs the tag of published weights{told}.")
        rest = {key: value for key, value in self.arguments.items() if key in ("in_chans", "img_size")}
        return lambda: fetch(name, rest)

    @classmethod
    def preprocessing(cls, options: Any, weights: str | None = None) -> Preprocessing | None:
        card = card_of(options.model)
        found = {"mean": card.mean, "std": card.std, "input_size": card.input_size}
        weights = weights or options.weights
        if weights not in (None, FROM_THE_HUB):
            told = read_json(Path(str(weights)) / "config.json").get("pretrained_cfg")
            if told is None:
                return None
            found |= told
        size = found["input_size"]
        return Preprocessing(tuple(found["mean"]), tuple(found["std"]), (size[1], size[2]))


def timm() -> Any:
    """The package, or an error that says how to install it."""
    return optional("timm", "timm")


def card_of(name: str) -> Any:
    """What timm publishes about a model: input size, mean and deviation, the names of its last layers.

    Raises:
        UserError: timm has no such model, or no such tag of it.
    """
    plain, _, tag = name.partition(".")
    if not timm().is_model(plain):
        guess = nearest(plain, timm().list_models())
        hint = f" Did you mean '{guess}'?" if guess else ""
        raise UserError(f"{WHERE}: timm has no model '{name}'.{hint} timm.list_models() names all of them.")
    if tag and tag not in tags_of(name):
        raise unknown("tag", tag, tags_of(name), f"{WHERE} ({plain})")
    return timm().get_pretrained_cfg(name)


def tags_of(name: str) -> list[str]:
    """Tags of the weights that are published for a model."""
    plain = name.partition(".")[0]
    found = timm().list_pretrained(f"{plain}.*")
    return [tag for model, _, tag in (each.partition(".") for each in found) if model == plain]


def build(name: str, **arguments: Any) -> nn.Module:
    """A model of timm as drawn.

    Raises:
        UserError: an argument that it does not take.
    """
    try:
        net: nn.Module = timm().create_model(name, **arguments)
    except TypeError as error:
        if "img_size" not in str(error):
            raise UserError(f"{WHERE} ({name}): arguments: {error}.") from error
        return build(name, **{key: value for key, value in arguments.items() if key != "img_size"})
    except (ValueError, AssertionError, RuntimeError) as error:
        told = str(error) or type(error).__name__
        raise UserError(f"{WHERE} ({name}): it cannot be built with {arguments}: {told}.") from error
    return net


def default_taps(net: nn.Module) -> tuple[tuple[str, ...], dict[str, int]]:
    """The modules after a network's stages, and the stride of all that timm names, if it names any."""
    info = getattr(net, "feature_info", None) or ()
    entries: Sequence[dict[str, Any]] = getattr(info, "info", info)
    strides = {str(entry["module"]): int(entry["reduction"]) for entry in entries}
    modules = {name for name, _ in net.named_modules()}
    names = [name for name in strides if name in modules]
    if len(set(strides.values())) == 1:
        return tuple(quarters(names) if len(names) > 4 else names), strides
    return tuple(name for name in names if strides[name] >= 4), strides


def fetch(name: str, arguments: dict[str, Any]) -> State:
    """The weights of a published model, for images of these channels and this size.

    Raises:
        UserError: they cannot be fetched.
    """
    try:
        with quiet_hub(), torch.device("cpu"), torch.random.fork_rng(devices=[]):
            state: State = timm().create_model(name, pretrained=True, **arguments).state_dict()
    except Exception as error:
        raise UserError(
            f"{WHERE}: cannot fetch the weights of {name} ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}). Without a "
            "network, give a folder or file that has them as 'weights'."
        ) from error
    return state
