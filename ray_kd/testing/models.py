"""ModelConformance: what every model must do, as tests that a plug-in subclasses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.config.registry import MODELS
from ray_kd.models import create_model
from ray_kd.models.base import StagedModel
from ray_kd.outputs import Outputs
from ray_kd.testing.scenes import tensors
from ray_kd.training.network_checks import check_outputs


class ModelConformance:
    """Subclass it and name your model; pytest does the rest.

    Example:
        >>> from ray_kd.plugin import ModelConformance
        >>> class TestMine(ModelConformance):
        ...     model = "digits_cnn"
        ...     image = (1, 8, 8)
    """

    model: ClassVar[str]
    """The registered name."""
    options: ClassVar[dict[str, Any]] = {}
    """Options to test it with."""
    image: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    """Channels, height and width of the images that it is sent."""
    other_size: ClassVar[tuple[int, int] | None] = None
    """Another height and width that it takes; None: twice the first."""
    classes: ClassVar[int] = 7
    """How many classes its head is built for."""
    tasks: ClassVar[tuple[str, ...] | None] = None
    """The tasks that its outputs are for with these options; None: all that it declares."""
    meta: ClassVar[bool] = True
    """Whether it can be built and asked without memory, on the meta device; False: it needs values."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Parameters that none of its outputs is computed from, by name."""

    @property
    def cls(self) -> type[StagedModel]:
        """The class under test."""
        found: type[StagedModel] = MODELS.get(self.model)
        return found

    def make(self, seed: int = 0, classes: int | None = None, **options: Any) -> StagedModel:
        """The network, freshly drawn."""
        return create_model(
            self.model,
            classes=self.classes if classes is None else classes,
            channels=self.image[0],
            size=self.image[1:],
            seed=seed,
            **{**self.options, **options},
        )

    def images(self, count: int = 3, size: tuple[int, int] | None = None, device: str = "cpu") -> Tensor:
        """Random images (N, C, H, W)."""
        draw = torch.Generator().manual_seed(0)
        height, width = size or self.image[1:]
        return torch.randn(count, self.image[0], height, width, generator=draw).to(device)

    def look(self, model: StagedModel, outputs: Outputs, count: int) -> None:
        """Whether outputs are as the tasks and ``stage_channels`` say."""
        assert isinstance(outputs, Outputs)
        for task in self.tasks or self.cls.tasks:
            check_outputs(outputs, task, self.classes, model, f"model '{self.model}'")
            assert (outputs.head is not None) == (task == "detection"), "head: of detectors"
        assert len(outputs.features) == len(model.stage_channels), "a feature map for each of stage_channels"
        for stage, feature in enumerate(outputs.features):
            assert feature.dim() == 4, f"stage {stage}: (N, C, H, W)"
            assert feature.shape[:2] == (count, model.stage_channels[stage]), f"stage {stage}"

    @pytest.mark.parametrize("training", [True, False])
    def test_outputs_of_two_sizes_of_images(self, training: bool) -> None:
        model = self.make().train(training)
        height, width = self.image[1:]
        for size in ((height, width), self.other_size or (2 * height, 2 * width)):
            outputs = model(self.images(size=size))
            self.look(model, outputs, 3)
            assert all(values.isfinite().all() for values in tensors(outputs)), size

    def test_evaluation_changes_nothing_and_sees_samples_one_by_one(self) -> None:
        model = self.make().eval()
        kept = {name: values.clone() for name, values in model.state_dict().items()}
        with torch.no_grad():
            together, again = tensors(model(self.images())), tensors(model(self.images()))
            alone = tensors(model(self.images()[:1]))
        for one, same, first in zip(together, again, alone, strict=True):
            assert torch.equal(one, same)
            torch.testing.assert_close(first, one[:1], rtol=1e-3, atol=1e-4)
        for name, values in model.state_dict().items():
            assert torch.equal(values, kept[name]), name

    def test_gradients_reach_every_parameter(self) -> None:
        model = self.make().train()
        outputs = tensors(model(self.images()))
        torch.stack([values.pow(2).sum() for values in outputs]).sum().backward()
        lacking = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        assert lacking == set(self.unused), "parameters that no output is computed from"
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name

    def test_the_seed_alone_decides_the_weights(self) -> None:
        before = torch.get_rng_state()
        one, same, other = self.make().state_dict(), self.make().state_dict(), self.make(1).state_dict()
        assert torch.equal(torch.get_rng_state(), before), "the model drew from the global stream"
        assert one.keys() == same.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], same[name])] == []
        assert any(not torch.equal(one[name], other[name]) for name in one)

    def test_weights_round_trip(self, tmp_path: Path) -> None:
        """As a run exports them, and ``weights`` reads them."""
        model = self.make().train()
        model(self.images())  # so that statistics are not as they were made
        state = {name: values.contiguous() for name, values in model.state_dict().items()}
        save_file(state, tmp_path / "student.safetensors")
        other = self.make(1, weights=str(tmp_path / "student.safetensors"))
        for name, values in other.state_dict().items():
            assert torch.equal(values, state[name]), name

    def test_the_last_layers_are_those_that_classes_change(self) -> None:
        """What ``head: fresh`` leaves as drawn is what weights for other classes do not fit."""
        model = self.make()
        state, other = model.state_dict(), self.make(classes=self.classes + 4).state_dict()
        assert state.keys() == other.keys()
        changed = {name.rpartition(".")[0] for name in state if state[name].shape != other[name].shape}
        last = model.last_layers
        assert {name for name in changed if not name.startswith(last)} == set(), "missing in last_layers"
        assert [name for name in last if not any(found.startswith(name) for found in changed)] == []

    def test_without_memory(self) -> None:
        """On the meta device ray-kd finds out whether a run's parts fit, before anything trains."""
        if not self.meta:
            return
        with torch.device("meta"):
            model = self.make()
            outputs = model(self.images(device="meta"))
        self.look(model, outputs, 3)
        assert all(parameter.is_meta for parameter in model.parameters())

    def test_mistakes_are_named(self) -> None:
        with pytest.raises(UserError, match="no_such_option"):
            self.make(no_such_option=1)
        with pytest.raises(UserError, match=r"no_such_file\.pt"):
            self.make(weights="no_such_file.pt")
