"""Image models of Hugging Face's transformers, from a configuration or a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import nn

from ray_kd.config.errors import UserError
from ray_kd.config.files import HUB, known_weights
from ray_kd.config.registry import MODELS
from ray_kd.config.screen import logger
from ray_kd.data.files import Size as ImageSize
from ray_kd.models.base import LibraryCall, Preprocessing, State
from ray_kd.models.library_model import LibraryModel, pooled_head, quarters
from ray_kd.models.optional import optional, quiet_hub, read_json
from ray_kd.models.tapped import last_linear
from ray_kd.models.taps import Size, TapOptions, TappedOptions

LOG = logger(__name__)
WHERE = "model huggingface"
AUTO = {
    "classification": "AutoModelForImageClassification",
    "segmentation": "AutoModelForSemanticSegmentation",
}
STAGES = re.compile(r"\w+\.(?:encoder\.)?(?:stages|layers|layer|blocks)\.\d+")
"""What transformers calls the blocks or stages of an image model."""


class HuggingfaceOptions(TappedOptions):
    """Options of transformers' image models; ``model: NAME`` is short for ``config: NAME, weights: NAME``."""

    config: dict[str, Any] | str
    """Its architecture: the keys of a configuration ({model_type: vit, hidden_size: 192, ...}), the folder or
    file that has them, or a model's name on the hub (google/vit-base-patch16-224, with @revision)."""
    task: Literal["classification", "segmentation"] = "classification"
    """Which head it has."""
    taps: tuple[str | TapOptions, ...] | None = None
    """Paths of the modules that are its stages, shallow to deep, or mappings that say more
    ({module: vit.layers.3, prefix: 1}); None: its stages (of more than five: the last of every quarter)."""
    image_size: ImageSize | None = None
    """Height and width (one number: a square) of the images that it is built for; None: the dataset's. Only
    networks of a fixed size read it."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        said = dict(given)
        if "model" in said:
            if "config" in said or said.get("weights") is not None:
                raise ValueError("model: is short for config and weights: expected neither beside it")
            said["config"] = said["weights"] = said.pop("model")
        for name in ("config", "weights"):
            value = said.get(name)
            if isinstance(value, str) and re.fullmatch(r"[\w.-]+/[\w.-]+(@\w+)?", value):
                said[name] = value if Path(value).exists() else HUB + value
        return said

    def essence(self) -> dict[str, Any]:
        found = super().essence()
        if isinstance(self.config, str):
            found["config"] = known_weights(_file(self.config), f"{WHERE}, config")
        return found


@MODELS.register("huggingface", source="transformers (Hugging Face)")
class HuggingfaceModel(LibraryModel):
    """An image model of transformers, its modules' outputs as taps, its weights under transformers' names.

    The configuration's ``num_labels``, ``num_channels`` and ``image_size`` are the dataset's. Logits of a
    segmentation are at the network's own resolution.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation")
    Options = HuggingfaceOptions

    def __init__(
        self, options: HuggingfaceOptions, classes: int, channels: int, size: Size | None = None
    ) -> None:
        self.channels, self.task = channels, options.task
        config = configuration(options)
        self.patch = getattr(config, "patch_size", None)
        published = _size(getattr(config, "image_size", None)) or (224, 224)
        self.size = options.image_size or size or published
        config.num_labels = classes
        if getattr(config, "num_channels", 3) != channels:
            if not hasattr(config, "num_channels"):
                raise UserError(
                    f"{WHERE} ({config.model_type}): it takes images of 3 channels, got {channels}."
                )
            config.num_channels = channels
        if getattr(config, "image_size", None) is not None:
            config.image_size = self.size[0] if self.size[0] == self.size[1] else self.size
        net = build(config, options.task)
        self._call = LibraryCall(
            f"transformers.{AUTO[options.task]}.from_config", {"config": config.to_dict()}
        )
        where = f"{WHERE} ({config.model_type})"
        super().__init__(net, tuple(default_taps(net)) if options.taps is None else options.taps, where)
        self.last_layers = _of_the_classes(net, config, options.task)
        self.measure_for(self.size, published, options.taps is None)

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The classifier on the pooled last tap, of networks that have at most a norm between."""
        net: Any = self.net
        head, norm = getattr(net, "classifier", None), getattr(net.base_model, "layernorm", None)
        parts = (head, nn.Sequential(norm, head) if head is not None and norm is not None else None)
        return pooled_head(self, self.channels, parts)

    def library_call(self) -> LibraryCall:
        return self._call

    def known_stride(self, index: int) -> int | None:
        return self.patch if isinstance(self.patch, int) else None

    def published(self, weights: str) -> Callable[[], State]:
        if not weights.startswith(HUB):
            raise UserError(
                f"{WHERE}: weights: expected a file, a folder or a name on the hub, got '{weights}'."
            )
        from_hub(weights, "config.json")
        place, _, revision = weights.removeprefix(HUB).partition("@")
        return lambda: read_folder(place, self.task, revision or None)

    def own_weights(self, place: str) -> State | None:
        return read_folder(place, self.task) if (Path(place) / "config.json").is_file() else None

    @classmethod
    def preprocessing(cls, options: Any, weights: str | None = None) -> Preprocessing | None:
        """As ``preprocessor_config.json`` beside the weights says it, if there is one at hand."""
        place = weights or options.weights or options.config
        if not isinstance(place, str):
            return None
        if place.startswith(HUB):
            try:
                place = from_hub(place, "preprocessor_config.json", local=True)
            except UserError:
                return None
        if not Path(place).exists():
            return None
        folder = Path(place) if Path(place).is_dir() else Path(place).parent
        said = read_json(folder / "preprocessor_config.json")
        if "image_mean" not in said or "image_std" not in said or said.get("do_normalize") is False:
            return None
        return Preprocessing(tuple(said["image_mean"]), tuple(said["image_std"]), _size(said.get("size")))


def _size(said: Any) -> Size | None:
    """Height and width, as configurations write them."""
    if isinstance(said, dict):
        side = said.get("shortest_edge")
        said = side if side is not None else (said.get("height"), said.get("width"))
    if isinstance(said, int):
        return said, said
    if isinstance(said, (tuple, list)) and len(said) == 2 and all(isinstance(side, int) for side in said):
        return said[0], said[1]
    return None


def _file(place: str) -> str:
    """The file of a configuration, where a folder has it."""
    return str(Path(place) / "config.json") if Path(place).is_dir() else place


def configuration(options: HuggingfaceOptions) -> Any:
    """The configuration that options name.

    Raises:
        UserError: there is none, or its keys are none of transformers'.
    """
    package, given = optional("transformers", "huggingface"), options.config
    if isinstance(given, str):
        file = from_hub(given, "config.json") if given.startswith(HUB) else _file(given)
        if not Path(file).is_file():
            raise UserError(
                f"{WHERE}: config: no file '{file}'; expected a folder or file of transformers, a name "
                "on the hub (google/vit-base-patch16-224), or a mapping with model_type."
            )
        given = read_json(Path(file))
    said = dict(given)
    kind = said.pop("model_type", None)
    try:
        config = package.AutoConfig.for_model(kind, **said)
    except Exception as error:
        raise UserError(
            f"{WHERE}: config: {str(error).splitlines()[0][:60]}... (model_type: {kind}; expected "
            "vit, deit, swin, segformer, resnet, convnext, dinov2 or another image model of transformers)."
        ) from error
    config.architectures = []  # the task says which head it has
    return config


def build(config: Any, task: str) -> nn.Module:
    """A network of a configuration as drawn.

    Raises:
        UserError: transformers has none for the task, or it cannot be built.
    """
    try:
        net: nn.Module = getattr(optional("transformers", "huggingface"), AUTO[task]).from_config(config)
    except Exception as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{WHERE}: no {task} network of model_type {config.model_type}: {told[0][:200]}"
        ) from error
    return net


def _of_the_classes(net: nn.Module, config: Any, task: str) -> tuple[str, ...]:
    """The modules whose size is the number of classes: those that differ where there is one more."""
    classes = config.num_labels
    try:
        config.num_labels = classes + 1
        with torch.device("meta"):
            other = build(config, task).state_dict()
    except UserError:  # something that the meta device does not have
        return last_linear(net)
    finally:
        config.num_labels = classes
    names = [name for name, value in net.state_dict().items() if value.shape != other[name].shape]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def default_taps(net: nn.Module) -> Iterator[str]:
    """A network's stages, each before it is made smaller; of more than five the last of every quarter."""
    modules = dict(net.named_modules())
    names = [name for name in modules if STAGES.fullmatch(name)]
    for name in names if len(names) <= 5 else quarters(names):
        blocks = getattr(modules[name], "blocks", None)
        smaller = hasattr(modules[name], "downsample") and isinstance(blocks, nn.ModuleList)
        yield f"{name}.blocks.{len(blocks) - 1}" if smaller and blocks is not None else name


def read_folder(place: str, task: str, revision: str | None = None) -> State:
    """The weights of a folder, or of a model on the hub, under the names that its network has today.

    transformers renames what older versions, and itself, write; what a folder lacks is left out here.

    Raises:
        UserError: they cannot be read or fetched.
    """
    package = optional("transformers", "huggingface")
    arguments = {"revision": revision, "output_loading_info": True, "use_safetensors": None}
    try:
        with quiet_hub(), torch.device("cpu"), torch.random.fork_rng(devices=[]):
            net, told = getattr(package, AUTO[task]).from_pretrained(place, **arguments)
    except Exception as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{WHERE}: cannot read the weights of '{place}' ({type(error).__name__}: {text[0]})."
        ) from error
    if told["unexpected_keys"]:
        names = ", ".join(sorted(told["unexpected_keys"])[:3])
        LOG.warning("%s: %d of its weights are not needed (%s).", place, len(told["unexpected_keys"]), names)
    missing = set(told["missing_keys"])
    return {name: value for name, value in net.state_dict().items() if name not in missing}


def from_hub(name: str, file: str, local: bool = False) -> str:
    """Where a file of a model on the hub lies, once it is fetched.

    Raises:
        UserError: it cannot be fetched.
    """
    place, _, revision = name.removeprefix(HUB).partition("@")
    hub = optional("huggingface_hub", "huggingface")
    try:
        with quiet_hub():
            found: str = hub.hf_hub_download(place, file, revision=revision or None, local_files_only=local)
    except Exception as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{WHERE}: cannot fetch {file} of '{place}' ({type(error).__name__}: {told[0]}). There is no "
            "folder of that name here; without a network, give the folder that has it."
        ) from error
    return found
