"""Features of every layout come to N x C x H x W, or are refused by name, in a run file and in Python.

N x H x W x C of timm's Swin: huggingface/pytorch-image-models#1438,
qubvel-org/segmentation_models.pytorch#1004 (``output_fmt`` says so).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ray_kd import Outputs, as_map, create_path, distill
from ray_kd.config.errors import UserError
from ray_kd.config.options import ModelOptions
from ray_kd.config.registry import MODELS
from ray_kd.config.spec import RunSpec
from ray_kd.models import create_model
from ray_kd.models.tapped import TappedModel
from ray_kd.models.taps import TapOptions
from ray_kd.training.preflight import check_run
from tests.helpers import TINY


def swin(classes: int, channels: int, dim: int = 8) -> nn.Module:
    """torchvision's Swin, small, as any network of a user's."""
    arguments = {"embed_dim": dim, "depths": [1, 1], "num_heads": [1, 1], "window_size": [2, 2]}
    net = torchvision.models.SwinTransformer(patch_size=[2, 2], num_classes=classes, **arguments)
    net.features[0][0] = nn.Conv2d(channels, dim, 2, stride=2)
    return net


def vit(classes: int, channels: int) -> nn.Module:
    arguments = {"num_layers": 2, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8}
    net = torchvision.models.VisionTransformer(image_size=16, patch_size=4, num_classes=classes, **arguments)
    net.conv_proj = nn.Conv2d(channels, 8, 4, stride=4)
    return net


class Moved(nn.Module):
    """Gives its features in another order of dimensions."""

    def __init__(self, order: tuple[int, ...], channels: int = 4, pooled: int | None = None) -> None:
        super().__init__()
        self.order, self.body, self.moved = order, nn.Conv2d(3, channels, 1), nn.Identity()
        self.pool = nn.Identity() if pooled is None else nn.AdaptiveAvgPool2d(pooled)

    def forward(self, image: Tensor) -> Tensor:
        found = self.pool(self.body(image))
        self.moved(
            found.flatten(2).permute(self.order) if len(self.order) == 3 else found.permute(self.order)
        )
        return found.mean((2, 3))


def tap(net: nn.Module, module: str, size: int | tuple[int, int] = 16, **known: Any) -> TappedModel:
    """A network with one tap; ``layout``, ``prefix`` and ``grid`` are the tap's, all else is the net's."""
    said = {name: known.pop(name) for name in ("layout", "prefix", "grid") if name in known}
    for name, value in known.items():
        setattr(net, name, value)
    model = TappedModel(net, [TapOptions(module=module, **said)], "student")
    model.measure(3, size)
    return model


def seen(model: TappedModel, image: Tensor) -> tuple[Tensor, Tensor]:
    """What the tapped module returned, and the map that was made of it."""
    caught: list[Any] = []
    handle = model.net.get_submodule(model.taps[0].module).register_forward_hook(
        lambda module, inputs, output: caught.append(output)
    )
    (feature,) = model.eval()(image).features
    handle.remove()
    return caught[0], feature


@pytest.mark.parametrize(
    ("build", "module", "layout", "grid"),
    [
        (swin, "features.1", "NHWC", (8, 8)),
        (swin, "features.3", "NHWC", (4, 4)),
        (swin, "features.1.0.attn", "NHWC", (8, 8)),
        (vit, "encoder.layers.encoder_layer_1", "NLC", (4, 4)),
        (vit, "encoder", "NLC", (4, 4)),
    ],
)
def test_other_layouts_come_to_maps(build: Any, module: str, layout: str, grid: tuple[int, int]) -> None:
    model = tap(build(3, 3), module, **({"prefix": 1} if build is vit else {}))
    raw, feature = seen(model, torch.randn(2, 3, 16, 16))
    assert (model.described[0].layout, model.described[0].grid) == (layout, grid)
    assert feature.shape == (2, model.stage_channels[0], *grid)
    rows = raw.flatten(1, 2) if layout == "NHWC" else raw[:, 1:]
    assert torch.equal(feature.flatten(2), rows.mT)


@pytest.mark.parametrize(
    ("build", "module", "says"),
    [
        ("vit", "encoder", ["(2, 17, 8)", "N, L, C", "prefix: 1", "grid: [4, 4]"]),
        ("swin", "head", ["(2, 3)", "expected a feature map (N, C, H, W)"]),
    ],
)
def test_what_is_not_clear_is_asked_for(build: str, module: str, says: list[str]) -> None:
    """torchvision's ViT takes images of one size alone, and does not say how many tokens come first."""
    options = {"name": "factory", "build": f"{__name__}:{build}", "image_size": 16, "taps": [module]}
    with pytest.raises(UserError) as error:
        create_model(classes=3, channels=3, **options)
    for word in [f"'{module}'", *says]:
        assert word in str(error.value), str(error.value)
    with pytest.raises(UserError, match=r"expected a feature map \(N, C, H, W\)|it is not clear"):
        check_run(RunSpec.parse({**TINY, "student": options}))
    if build == "vit":
        for said in ({"prefix": 1}, {"grid": [4, 4]}):
            model = create_model(classes=3, channels=3, **{**options, "taps": [{"module": module, **said}]})
            assert model.described[0].prefix == 1, said  # type: ignore[attr-defined]


class Tokens(nn.Module):
    """A transformer's tokens for images of any size, some before those of the grid."""

    def __init__(self, prefix: int, patch: int = 4) -> None:
        super().__init__()
        self.patch, self.tokens = nn.Conv2d(3, 6, patch, stride=patch), nn.Identity()
        self.first, self.head = nn.Parameter(torch.zeros(1, prefix, 6)), nn.Linear(6, 3)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patch(image).flatten(2).mT
        first = self.first.expand(len(tokens), -1, -1)
        return self.head(self.tokens(torch.cat([first, tokens], dim=1)).mean(dim=1))


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [(16, 16), (16, 32), (48, 16)])
def test_two_sizes_tell_which_tokens_form_the_grid(prefix: int, size: tuple[int, int]) -> None:
    net = Tokens(prefix)
    model = tap(net, "tokens", size)
    known = model.described[0]
    assert (known.prefix, known.grid) == (prefix, (size[0] // 4, size[1] // 4))
    assert known.stride == "4"
    for other in (size, (24, 40)):  # images of another size have another grid
        image = torch.randn(2, 3, *other)
        assert torch.equal(seen(model, image)[1], net.patch(image))


def test_what_a_network_says_of_its_tokens_has_to_fit() -> None:
    assert tap(Tokens(2), "tokens", num_prefix_tokens=2).described[0].prefix == 2
    with pytest.raises(UserError, match="it is not clear which tokens form a grid"):
        tap(Tokens(7), "tokens", num_prefix_tokens=12, size=12)  # two sizes say 7; 2 x 2 fit too
    with pytest.raises(UserError, match="fill no grid"):
        tap(Tokens(1), "tokens", grid=(4, 4))(torch.zeros(2, 3, 24, 24))


def test_a_layout_that_is_said_has_to_fit() -> None:
    plain = Moved((0, 1, 2, 3), channels=16)
    assert tap(plain, "moved", layout="NHWC").stage_channels == (16,)  # C = H = W: the user's word counts
    with pytest.raises(UserError, match="which is not NLC"):
        tap(Moved((0, 1, 2, 3)), "moved", layout="NLC")


def test_the_first_tensor_of_a_tuple_is_the_tap() -> None:
    class Pair(nn.Module):
        def forward(self, value: Tensor) -> tuple[Tensor, None]:
            return value.relu(), None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.block = nn.Conv2d(3, 4, 1), Pair()

        def forward(self, image: Tensor) -> Tensor:
            return self.block(self.body(image))[0].mean((2, 3))

    net = Net()
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(tap(net, "block")(image).features[0], net.body(image).relu())


def test_a_map_within_such_a_network_is_read() -> None:
    for name, build, module in (("swin", swin, "features.0.0"), ("vit", vit, "conv_proj")):
        model = tap(build(3, 3), module)
        assert model.stage_channels == (8,), name
        (described,) = model.described
        assert (described.module, described.call, described.layout) == (module, 0, "NCHW")
        assert described.grid == ((8, 8) if name == "swin" else (4, 4))


@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize(("order", "layout"), [((0, 1, 2, 3), "NCHW"), ((0, 2, 3, 1), "NHWC")])
def test_where_channels_are_as_many_as_rows_two_sizes_tell(
    size: int, order: tuple[int, ...], layout: str
) -> None:
    """C = H = W: the shape of one size says nothing."""
    assert tap(Moved(order, channels=size), "moved", size).described[0].layout == layout


def test_where_the_network_takes_one_size_its_own_word_tells() -> None:
    net = Moved((0, 2, 3, 1), channels=4, pooled=4)
    with pytest.raises(UserError, match="nothing tells which of these are the channels: say layout"):
        tap(net, "moved")
    assert tap(net, "moved", layout="NHWC").described[0].layout == "NHWC"
    assert tap(net, "moved", output_fmt="NHWC").described[0].layout == "NHWC"
    plain = Moved((0, 1, 2, 3), channels=4, pooled=4)
    assert tap(plain, "moved", output_fmt="NCHW").described[0].grid == (4, 4)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 2, 1), (0, 1, 2)])
def test_every_order_of_dimensions_gives_the_same_map(order: tuple[int, ...]) -> None:
    net = Moved(order)
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(seen(tap(net, "moved"), image)[1], net.body(image))


@pytest.mark.parametrize(
    ("order", "says"),
    [((1, 0, 2, 3), r"\(4, 2, 16, 16\) for 2 images"), ((2, 0, 1), r"\(256, 2, 4\) for 2 images")],
)
def test_the_batch_comes_first(order: tuple[int, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        tap(Moved(order), "moved")


def test_pooled_to_one_place_is_still_a_map() -> None:
    for order in ((0, 1, 2, 3), (0, 2, 3, 1)):
        assert tap(Moved(order, pooled=1), "moved").described[0].grid == (1, 1)


def test_torchvisions_own_swin_tells_its_maps_apart() -> None:
    """A tap before the permutation, which was permuted all the same."""
    options = {"arch": "swin_t", "taps": ["features.0.0", "features.1"]}
    with torch.device("meta"):
        model = create_model("torchvision", classes=3, channels=3, **options)
        outputs = model(torch.empty(2, 3, 64, 64))
    assert model.stage_channels == (96, 96)
    assert [tuple(f.shape) for f in outputs.features] == [(2, 96, 16, 16)] * 2
    assert [d.layout for d in model.described] == ["NCHW", "NHWC"]


# The same in Python.


class Own(nn.Module):
    """A user's network with its features in an order of its own."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2, 3), channels: int = 8) -> None:
        super().__init__()
        self.order, self.stage_channels = order, (channels,)
        self.body, self.head = nn.Conv2d(1, channels, 1), nn.Linear(channels, 10)

    def forward(self, image: Tensor) -> Outputs:
        found = self.body(image)
        flat = found.flatten(2) if len(self.order) == 3 else found
        return Outputs((flat.permute(self.order),), self.head(found.mean((2, 3))))


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("name", ["hint", "nst", "attention_transfer", "similarity", "vid", "feature_map"])
def test_a_path_refuses_what_is_no_map(name: str, side: str) -> None:
    path = create_path(name, student_channels=(8,), teacher_channels=(8,), stages=(0,))
    maps = torch.randn(2, 8, 4, 4)
    plain = Outputs((maps,), torch.randn(2, 5))
    path(plain, path.target(plain))
    for wrong in (maps.permute(0, 2, 3, 1), maps.flatten(2).transpose(1, 2), maps[:, :3]):
        odd = Outputs((wrong,), plain.logits)
        student, teacher = (odd, plain) if side == "student" else (plain, odd)
        with pytest.raises(
            UserError, match=r"stage 0: expected a feature map \(N, C, H, W\) of 8 channels"
        ) as e:
            path(student, path.target(teacher))
        if wrong.shape[-1] == 8:
            layout = "NLC" if wrong.dim() == 3 else "NHWC"
            assert f"ray_kd.as_map(feature, '{layout}')" in str(e.value)
            assert torch.equal(as_map(wrong, layout), maps)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 2, 1)])
def test_own_networks_are_looked_at_before_they_train(
    role: str, order: tuple[int, ...], tmp_path: Any
) -> None:
    """Images are 8 x 8 and channels 8: no batch's shape tells."""
    spec = RunSpec.parse({**TINY, "paths": ["attention_transfer"], "storage": str(tmp_path)})
    pair = {"student": Own(), "teacher": Own(), role: Own(order)}
    with pytest.raises(UserError, match=rf"{role}.* \(Own\): features\[0\].*expected a feature map"):
        distill(spec, **pair)  # type: ignore[arg-type]
    summary = distill(spec, student=Own(), teacher=Own(), key="plain")
    assert summary["status"] == "finished"


class Registered(Own):
    """A user's network under a name."""

    tasks = ("classification",)
    Options = ModelOptions
    last_layers = ("head",)

    def __init__(self, options: ModelOptions, classes: int, channels: int) -> None:
        super().__init__((0, 2, 3, 1))


def test_registered_networks_are_looked_at_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    MODELS.load()
    monkeypatch.setattr(MODELS, "_entries", {**MODELS._entries})  # for this test alone
    MODELS.register("registered_elsewhere", source="a user's own")(Registered)
    spec = RunSpec.parse(
        {**TINY, "student": "registered_elsewhere", "paths": ["attention_transfer"], "storage": str(tmp_path)}
    )
    with pytest.raises(UserError, match=r"the student \(Registered\): features\[0\].*\(N, H, W, C\)"):
        distill(spec, teacher=Own())
