"""PathConformance: what every path must do, as tests that a plug-in subclasses."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from ray_kd.config.errors import UserError
from ray_kd.config.registry import PATHS
from ray_kd.paths import Path, create_path
from ray_kd.paths.corruption import Corruption
from ray_kd.testing.scenes import SCENES, Scene, on_two_ranks, tensors
from ray_kd.testing.state import assert_kept

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class PathConformance:
    """Subclass it and name your path; pytest does the rest, on the scene of each task the path declares.

    Example:
        >>> class TestMine(PathConformance):
        ...     path = "soft_target"
    """

    path: ClassVar[str]
    """The registered name."""
    options: ClassVar[dict[str, Any]] = {}
    """Options to test it with."""
    stored_tolerance: ClassVar[float] = 0.02
    """How far, relatively, the loss may move when its target went through float16."""
    scenes: ClassVar[Mapping[str, type[Scene]]] = SCENES
    """What it is tested on, by task."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every test once for each task that the path declares."""
        tasks = [task for task in self.cls.tasks if task in self.scenes]
        assert tasks, f"path '{self.path}' is for {self.cls.tasks}; scenes: {sorted(self.scenes)}"
        if "task" in metafunc.fixturenames:
            metafunc.parametrize("task", tasks)

    @pytest.fixture(autouse=True)
    def _on_the_scene_of(self, task: str) -> None:
        self.scene = self.scenes[task]
        self.task = task

    @property
    def cls(self) -> type[Path]:
        """The class under test."""
        found: type[Path] = PATHS.get(self.path)
        return found

    def make(self, scene: Scene | None = None, seed: int = 0, **options: Any) -> Path:
        """The path between the scene's student and teacher, bound to the teacher."""
        scene = scene or self.scene()
        path = create_path(
            self.path,
            student_channels=scene.student_channels,
            teacher_channels=scene.teacher_channels,
            seed=seed,
            **{**self.options, **options},
        )
        path.bind(scene.teacher_model)
        return path.to(scene.device, scene.dtype)

    def unadapted(self, scene: Scene) -> Path:
        """The path without adapters, where it can do without."""
        has = "adapter" in self.cls.Options.model_fields
        return self.make(scene, adapter=None) if has else self.make(scene)

    def loss(self, path: Path, scene: Scene, target: Mapping[str, Tensor] | None = None) -> Tensor:
        """The sum of the path's losses on the scene."""
        target = path.target(scene.teacher) if target is None else target
        return torch.stack(list(path(scene.student, target, scene.batch).values())).sum()

    def settled(self, path: Path, scene: Scene) -> Path:
        """The path once what it remembers has seen the scene (for stateful ones)."""
        if "stateful" in self.cls.traits:
            self.loss(path, scene)
        return path

    def read(self, path: Path, scene: Scene) -> list[Tensor]:
        """The student's tensors that the loss must depend on."""
        student, stages = scene.student, getattr(path, "stages", None)
        if stages is not None:
            return [student.features[stage] for stage in stages]
        found = {"logits": student.logits, **student.extra}
        named = [found[name] for name in path.reads if name in found]
        read = [*(student.features if "features" in path.reads else ()), *named]
        assert read
        return [values for values in read if values is not None]

    def test_losses_are_finite_scalars_under_declared_keys(self) -> None:
        scene = self.scene()
        path = self.make(scene)
        losses = path(scene.student, path.target(scene.teacher), scene.batch)
        assert tuple(losses) == path.keys
        for key, loss in losses.items():
            assert key == path.label or key.startswith(f"{path.label}/")
            assert loss.shape == ()
            assert loss.isfinite()
        assert self.make(scene, label="other").keys[0].partition("/")[0] == "other"

    def test_a_path_that_reads_no_feature_maps_needs_none(self) -> None:
        """Networks without taps: no stages on either side, outputs without features."""
        scene = self.scene()
        path = self.make(scene)
        stages: Any = getattr(path, "stages", ())
        if "features" in self.cls.reads or stages:
            return
        bare = create_path(self.path, student_channels=(), teacher_channels=(), **self.options)
        target = bare.target(replace(scene.teacher, features=()))
        losses = bare(replace(scene.student, features=()), target, scene.batch)
        torch.testing.assert_close(torch.stack(list(losses.values())).sum(), self.loss(path, scene))

    def test_never_negative_unless_signed(self) -> None:
        if "signed" in self.cls.traits:
            return
        for seed in range(5):
            scene = self.scene(seed)
            path = self.make(scene)
            assert min(path(scene.student, path.target(scene.teacher), scene.batch).values()) >= 0

    def test_gradients_reach_student_and_adapters_only(self) -> None:
        scene = self.scene(teacher_grad=True)
        path = self.settled(self.make(scene), scene)
        target = path.target(scene.teacher)
        self.loss(path, scene, target).backward()
        for values in self.read(path, scene):
            assert values.grad is not None
            assert values.grad.isfinite().all()
            assert values.grad.abs().sum() > 0
        for name, parameter in path.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
        teacher = [*tensors(scene.teacher), *scene.teacher_model.parameters()]
        assert all(values.grad is None for values in teacher)
        assert not any(values.requires_grad for values in target.values())

    def test_target_is_of_samples_and_of_detached_outputs(self) -> None:
        scene = self.scene(teacher_grad=True)
        path = self.make(scene)
        target, detached = path.target(scene.teacher), path.target(scene.teacher.detach())
        few = path.target(scene.rows(slice(0, 3)).teacher)
        assert target.keys() == detached.keys() == few.keys()
        for key, values in target.items():
            assert len(values) == scene.count
            assert torch.equal(values, detached[key])
            torch.testing.assert_close(few[key], values[:3], msg="a row depends on other samples")
        given = sum(values.numel() for values in tensors(scene.teacher))
        assert sum(values.numel() for values in target.values()) <= given

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_zero_where_student_is_teacher(self, dtype: torch.dtype) -> None:
        scene = self.scene(dtype=dtype).as_teacher()
        path = self.settled(self.unadapted(scene).eval(), scene)
        loss = self.loss(path, scene)
        size = 1e-5 if dtype == torch.float32 else 1e-10
        assert (abs(float(loss.detach())) < size) == self.cls.zero_at_teacher
        loss.backward()  # roots and norms have no slope at 0: nothing of that may get out
        for values in self.read(path, scene):
            assert values.grad is None or values.grad.isfinite().all()

    def test_order_of_samples_does_not_matter(self) -> None:
        scene = self.scene(dtype=torch.float64)
        turned = scene.rows(torch.tensor([3, 0, 7, 1, 6, 2, 5, 4]))
        for here in (scene, turned):
            here.loss = self.loss(self.make(scene), here)
        torch.testing.assert_close(scene.loss, turned.loss)

    def test_scale_law(self) -> None:
        if self.cls.degree is None:
            return
        one, three = self.scene(dtype=torch.float64), self.scene(dtype=torch.float64, scale=3.0)
        losses = [self.loss(self.make(one).eval(), scene) for scene in (one, three)]
        torch.testing.assert_close(losses[1], losses[0] * 3**self.cls.degree, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_is_the_students(self, dtype: torch.dtype) -> None:
        scene = self.scene(dtype=dtype)
        loss = self.loss(self.make(scene), scene)
        assert loss.dtype == dtype
        exact = self.scene(dtype=torch.float64)
        torch.testing.assert_close(loss.double(), self.loss(self.make(exact), exact), rtol=1e-3, atol=1e-6)

    def test_autocast_stays_finite_and_close(self) -> None:
        scene, half = self.scene(), self.scene().in_half()
        wanted = self.loss(self.make(scene), scene)
        path = self.make(half)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(path, half)
        assert loss.dtype == torch.float32
        loss.backward()
        assert all(p.grad.isfinite().all() for p in path.parameters() if p.grad is not None)
        torch.testing.assert_close(loss, wanted, rtol=0.15, atol=1e-3)

    @pytest.mark.parametrize("device", DEVICES)
    def test_device(self, device: str) -> None:
        scene, there = self.scene(), self.scene(device=device)
        wanted, loss = self.loss(self.make(scene), scene), self.loss(self.make(there), there)
        assert loss.device.type == device
        torch.testing.assert_close(loss.cpu(), wanted, rtol=1e-3, atol=1e-5)

    def test_state_round_trip(self) -> None:
        scene, other = self.scene(), self.scene(1)
        path = self.make(scene)
        for seen in (scene, other, scene):
            self.loss(path, seen)
        buffer = io.BytesIO()
        torch.save(path.state_dict(), buffer)
        buffer.seek(0)
        fresh = self.make(scene, seed=0 if "stochastic" in self.cls.traits else 99)
        fresh.load_state_dict(torch.load(buffer, weights_only=True))
        for _ in range(2):
            assert torch.equal(self.loss(fresh, scene), self.loss(path, scene))

    def test_target_survives_half_precision(self) -> None:
        scene = self.scene()
        path = self.make(scene).eval()
        target = path.target(scene.teacher)
        stored = {k: v.half() if v.is_floating_point() else v for k, v in target.items()}  # as stores do
        wanted, loss = self.loss(path, scene, target), self.loss(path, scene, stored)
        torch.testing.assert_close(loss, wanted, rtol=self.stored_tolerance, atol=1e-4)

    def test_two_ranks_are_one(self) -> None:
        """Losses and gradients, averaged over two ranks with half of the samples each, are the whole's."""
        if "stochastic" in self.cls.traits and "sample" not in self.cls.needs:
            return  # what is drawn for a sample by its id is the same on any rank
        whole = self.scene(dtype=torch.float64)
        halves = [whole.rows(slice(0, None, 2)), whole.rows(slice(1, None, 2))]
        paths = [self.make(whole) for _ in range(3)]
        for path in paths:  # batch statistics of adapters are synchronised elsewhere
            path.train(not any(isinstance(module, nn.BatchNorm2d) for module in path.modules()))

        def step(path: Path, scene: Scene) -> Tensor:
            self.loss(path, scene)
            loss = self.loss(path, scene)
            loss.backward()
            return loss.detach()

        wanted = step(paths[0], whole)
        losses = on_two_ranks(lambda rank: step(paths[1 + rank], halves[rank]))
        torch.testing.assert_close(torch.stack(losses).mean(), wanted)
        for all_of_it, *parts in zip(*(self.read(paths[0], s) for s in (whole, *halves)), strict=True):
            for rank, part in enumerate(parts):
                torch.testing.assert_close(part.grad / 2, all_of_it.grad[rank::2])
        for ours, *theirs in zip(*(path.parameters() for path in paths), strict=True):
            if ours.grad is not None:
                torch.testing.assert_close((theirs[0].grad + theirs[1].grad) / 2, ours.grad)
        for ours, *theirs in zip(*(path.buffers() for path in paths), strict=True):
            for values in theirs:
                torch.testing.assert_close(values, ours)

    def test_what_nobody_labelled_changes_nothing(self) -> None:
        """Of paths between logits: neither losses nor gradients, and it gets no gradient."""
        scene = self.scene(dtype=torch.float64)
        other = scene.ignored()
        if other is None or hasattr(self.make(scene), "stages") or "features" in self.cls.reads:
            return
        for here in (scene, other):
            here.loss = self.loss(self.make(here).eval(), here)
            here.loss.backward()
        torch.testing.assert_close(other.loss, scene.loss)
        (ours,), (theirs,) = ([*self.read(self.make(), here)] for here in (scene, other))
        assert not torch.equal(ours, theirs)
        assert ours.grad is not None
        assert (ours.grad[ours != theirs] == 0).all()
        torch.testing.assert_close(theirs.grad, ours.grad)

    def test_seed_alone_decides_the_adapters(self) -> None:
        before = torch.get_rng_state()
        scene = self.scene()
        path, same, other = self.make(scene), self.make(scene), self.make(scene, seed=1)
        self.loss(path, scene)
        assert torch.equal(torch.get_rng_state(), before), "the path drew from the global stream"
        learnt = [p for p in path.parameters() if p.requires_grad]
        for ours, theirs in zip(path.parameters(), same.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        if learnt:
            pairs = zip(path.parameters(), other.parameters(), strict=True)
            assert any(not torch.equal(ours, theirs) for ours, theirs in pairs)

    def test_a_probe_leaves_no_trace(self) -> None:
        scene = self.scene()
        path = self.settled(self.make(scene), scene).eval()
        kept = {key: values.clone() for key, values in path.state_dict().items()}
        with torch.no_grad():
            self.loss(path, scene)
        path.recording = False
        self.loss(path, self.scene(1)).backward()
        path.train()
        self.loss(path, self.scene(2))
        assert_kept(path, kept)

    @pytest.mark.parametrize("side", ["student", "teacher"])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_is_not_remembered(self, side: str, value: float) -> None:
        """One spoilt sample: the loss is not finite, and what a ``stateful`` path remembers stays."""
        if "stateful" not in self.cls.traits:
            return
        scene = self.scene()
        path = self.settled(self.make(scene), scene)
        kept = {key: values.clone() for key, values in path.state_dict().items()}
        target = path.target(scene.teacher)
        for values in tensors(scene.student) if side == "student" else target.values():
            values.data[0] = value if values.is_floating_point() else 0
        assert not self.loss(path, scene, target).isfinite()
        assert_kept(path, kept)

    def test_warm_up_scales_the_loss(self) -> None:
        scene = self.scene()
        for epoch, share in ((0, 0.25), (1, 0.5), (3, 1.0), (9, 1.0)):
            path, warm = self.make(scene, warmup_epochs=0), self.make(scene, warmup_epochs=4)
            for one in (path, warm):
                one.begin_epoch(epoch)
            torch.testing.assert_close(self.loss(warm, scene), self.loss(path, scene) * share)

    @pytest.mark.parametrize("kind", ["shuffle", "shuffle_fixed", "noise"])
    def test_corruption_changes_the_loss(self, kind: Corruption) -> None:
        scene = self.scene()
        path = self.make(scene, corrupt=kind).eval()
        target = path.target(scene.teacher)
        spoilt, again = (path.corrupted(target, scene.batch, step=5) for _ in range(2))
        for key, values in target.items():
            assert spoilt[key].shape == values.shape
            assert spoilt[key].dtype == values.dtype
            assert torch.equal(spoilt[key], again[key])
            assert not torch.equal(spoilt[key], values)
        assert self.loss(path, scene, spoilt).isfinite()

    def test_mistakes_are_named(self) -> None:
        with pytest.raises(UserError, match="stage"):
            self.make(stages=(99,))
        with pytest.raises(UserError, match="no_such_option"):
            self.make(no_such_option=1)
        scene = self.scene()
        path = self.make(scene)
        target = path.target(scene.teacher)
        for needed in self.cls.needs_of(self.task):
            lacking = {key: values for key, values in scene.batch.items() if key != needed}
            with pytest.raises(UserError, match=needed):
                path(scene.student, target, lacking)
