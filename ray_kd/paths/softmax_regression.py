"""Softmax regression: the teacher's head classifies the student's features."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from ray_kd.config.errors import UserError
from ray_kd.config.registry import PATHS
from ray_kd.outputs import Outputs
from ray_kd.paths.base import exact, feature_of, full, logits_of
from ray_kd.paths.feature import AdaptedOptions, AdaptedPath, pooled


class SoftmaxRegressionOptions(AdaptedOptions):
    """Options of softmax regression."""


@PATHS.register("softmax_regression", source="Yang et al., ICLR 2021 (SRRL)")
class SoftmaxRegression(AdaptedPath):
    r"""Softmax regression (SR, SRRL): :math:`MSE(h_t(GAP(A(F_s))), z_t)` on the last stage.

    h_t is the teacher's frozen head, A the adapter; mean over samples and classes. The target is the
    teacher's logits (N, K). ``bind`` copies ``teacher.head``: a module that maps the pooled features
    (N, C) of the teacher's last stage to its logits; it stays in evaluation mode. If the teacher has
    layers between its last tap and the pooling (``teacher.neck``: WRN, MobileNetV2), they are part of h_t.

    Source: Yang, Martinez, Bulat, Tzimiropoulos, *Knowledge distillation via softmax regression
    representation learning*, ICLR 2021, in the form of the published Adaptive Distillation code
    (static weight 1, adapter without ReLU; SRRL's own has one: ``adapter: conv_bn_relu``).
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    target_kind: ClassVar[str | None] = "logits"
    target_options: ClassVar[tuple[str, ...] | None] = ()
    published_weight: ClassVar[float] = 1.0
    binds: ClassVar[bool] = True
    default_stages: ClassVar[tuple[int, ...] | None] = (-1,)
    Options = SoftmaxRegressionOptions
    head: nn.Module | None

    def setup(self) -> None:
        last = min(len(self.student_channels), len(self.teacher_channels)) - 1
        if last >= 0:  # where the teacher has more stages, its head still reads the last of them
            self.teacher_channels = (*self.teacher_channels[:last], self.teacher_channels[-1])
        super().setup()
        if self.stages != (last,):
            raise UserError(
                f"path '{self.label}': stages: expected [{last}], the last stage, which the "
                f"teacher's head reads; got {list(self.stages)}."
            )
        self.head = None
        self.neck: nn.Module | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.label,)

    def bind(self, teacher: nn.Module) -> None:
        head = getattr(teacher, "head", None)
        if not isinstance(head, nn.Module):
            kind = type(getattr(teacher, "net", teacher)).__name__  # with taps, the network within
            raise UserError(
                f"path '{self.label}' needs the teacher's head: {kind} has no module 'head' (pooled features "
                "of its last stage -> logits)."
            )
        self.head = copy.deepcopy(head).requires_grad_(False).eval()
        neck = getattr(teacher, "neck", None)
        self.neck = None if neck is None else copy.deepcopy(neck).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SoftmaxRegression:
        super().train(mode)
        for part in (self.head, self.neck):
            if part is not None:
                part.eval()
        return self

    def target(self, teacher: Outputs) -> dict[str, Tensor]:
        return {self.label: logits_of(teacher, self.label).detach()}

    def losses(
        self, student: Outputs, target: Mapping[str, Tensor], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.head is None:
            raise UserError(f"path '{self.label}' was not bound; call path.bind(teacher) first.")
        stage = self.stages[0]
        feature = self.adapt(feature_of(student, stage, self.label), stage)
        with exact(feature):
            feature = full(feature)
            if self.neck is not None:
                feature = self.neck(feature)
            logits = cast(Tensor, self.head(pooled(feature)))
            return {self.label: F.mse_loss(logits, target[self.label].to(logits.dtype))}
