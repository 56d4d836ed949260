"""How a run trains: sections of its spec on the optimizer, the learning rate, and the loop."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ray_kd.config.errors import UserError, unknown
from ray_kd.config.options import Strict
from ray_kd.config.validation import refuse_guesses

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

HOW = ("params", "foreach", "fused", "capturable", "differentiable", "maximize")
"""Arguments that ``optimizer.options`` does not take: how an update is computed, and in which direction."""
REFUSED = {
    "lbfgs": "it evaluates the loss several times in a step",
    "muon": "it updates matrices alone, and networks have biases",
    "rprop": "its step sizes do not follow the learning rate's schedule",
    "sparseadam": "it takes sparse gradients alone",
}
"""Optimizers of ``torch.optim`` that no run can use, with the reason."""


def optimizer_class(name: str) -> Any:
    """An optimizer of ``torch.optim`` by its name in small letters.

    Raises:
        UserError: there is none of that name, or no run can use it.
    """
    from torch import optim  # imported here: files are read and shown without PyTorch

    known = {key.lower(): cls for key, cls in vars(optim).items() if inspect.isclass(cls)}
    names = known.keys() - REFUSED.keys() - {"optimizer"}
    if name in REFUSED:
        raise UserError(f"no run can use '{name}': {REFUSED[name]}. Known: {', '.join(sorted(names))}.")
    if name not in names:
        raise unknown("optimizer", name, names)
    return known[name]


def _known_optimizer(name: str) -> str:
    if name != "sgd":  # the default needs no PyTorch
        optimizer_class(name)
    return name


class Optimizer(Strict):
    """How the student (and the paths' adapters) are updated."""

    name: Annotated[str, AfterValidator(_known_optimizer)] = "sgd"
    """A class of ``torch.optim`` in small letters: sgd, adamw, adam, nadam, radam, rmsprop, adafactor ..."""
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd and rmsprop; the first of ``betas`` of adam, adamw and their relatives."""
    nesterov: bool = False
    """sgd: Nesterov's momentum."""
    weight_decay: NotNegative = 1e-4
    decay_norms: bool = True
    """Whether weight decay acts on everything; false: neither on biases and parameters of normalisation (all
    with fewer than two dimensions) nor on what a network's ``no_weight_decay()`` names, as timm does it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Other arguments of that class, as PyTorch documents them: {alpha: 0.9, eps: 1e-3} of rmsprop."""
    clip: Positive | None = None
    """Largest norm of the student's gradient; None: no clipping."""

    @model_validator(mode="after")
    def _can_be_made(self) -> Optimizer:
        if self.name == "sgd" and not self.options:
            return self
        import torch

        try:
            optimizer_class(self.name)([torch.zeros(1, requires_grad=True)], **self.settings())
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise ValueError(f"torch.optim's '{self.name}' refuses these values: {error}") from None
        return self

    def settings(self) -> dict[str, Any]:
        """The arguments of its class in ``torch.optim``.

        Raises:
            UserError: a key that the class does not know or that stands elsewhere; Nesterov's or any momentum
                where it has none.
        """
        known = inspect.signature(optimizer_class(self.name)).parameters
        settings: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        betas = self.options.get("betas")
        default = Optimizer.model_fields["momentum"].default
        if "momentum" in known:
            settings["momentum"] = self.momentum
        elif "betas" in known and betas is None:
            settings["betas"] = (self.momentum, *known["betas"].default[1:])
        elif self.momentum != default and (betas is None or self.momentum != betas[0]):
            what = f"options.betas: {betas} has another" if betas else f"'{self.name}' has none"
            raise UserError(f"momentum: {self.momentum}, but {what}; leave it out.")
        if "nesterov" in known:
            settings["nesterov"] = self.nesterov
        elif self.nesterov:
            raise UserError(f"nesterov: '{self.name}' has no such momentum; expected false.")
        own = [key for key in known if key not in (*HOW, *Optimizer.model_fields)]
        for key, value in self.options.items():
            if key in Optimizer.model_fields:
                raise UserError(f"options: '{key}' has a key of its own, optimizer.{key}.")
            if key not in own:
                raise unknown("option", key, own, f"options of '{self.name}'")
            if isinstance(known[key].default, (bool, int, float)):
                refuse_guesses(value, frozenset({type(known[key].default)}))
            settings[key] = tuple(value) if isinstance(value, list) else value
        return settings


class Schedule(Strict):
    """The learning rate as a function of the optimizer step."""

    name: Literal["constant", "step", "cosine", "poly"] = "cosine"
    milestones: tuple[Count, ...] = ()
    """``step``: the epochs after which the learning rate is multiplied by ``gamma``."""
    gamma: Positive = 0.2
    """step: the factor at each milestone."""
    power: Positive = 0.9
    """poly: the exponent."""
    warmup_epochs: NotNegative = 0.0
    """Epochs over which the learning rate rises linearly from 0."""


class Order(Strict):
    """A data order that shuffles a few blocks of consecutive samples at a time."""

    block: Count
    """Consecutive samples in a block."""
    window: Count
    """Blocks, drawn from the whole set, whose samples are shuffled together."""


class Ema(Strict):
    """A moving average of the student's weights, as timm's ModelEmaV3 keeps it."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """The share of the average that a step keeps."""
    warmup: bool = False
    """Whether the decay rises to that: in step n + 1 it is 1 - (1 + n / warmup_gamma) ** -warmup_power."""
    warmup_gamma: Positive = 1.0
    """Steps until the rise begins to flatten."""
    warmup_power: Positive = 2 / 3
    """How fast it rises."""


class Training(Strict):
    """Length, batch size and other settings of the training loop."""

    epochs: Count = 20
    batch_size: Count = 64
    """Samples in one optimizer step, over all ranks."""
    accumulate: Count = 1
    """Parts of a step's batch that go through the networks one after the other, which takes less memory and
    more time. The step is still one on all its samples, its losses the means of the parts' losses; BatchNorm,
    and losses that compare samples or count pixels, see a part at a time. Not with aggregators that look at
    gradients, nor with paths that remember batches."""
    task_weight: NotNegative = 1.0
    """Factor on the task loss; 0: pure distillation."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of forward passes; auto (one identity): half precision on a GPU, float32 on a CPU."""
    threads: Count = 1
    """CPU threads of one worker; part of the identity, since it changes the last bits."""
    evaluate_every: Count = 1
    """Epochs between evaluations on validation data; the last epoch is always evaluated."""
    labels: Literal["given", "permuted"] = "given"
    """permuted: the training labels are permuted once among the samples (keyed by the seed), for a teacher
    that is wrong on purpose. Validation and test labels are not permuted."""
    disturb: NotNegative = 0.0
    """Disturbance of the initial weights: each is multiplied by 1 + disturb x a standard normal number (keyed
    by the seed). 1e-7 moves the last bits, for a control that shows the noise of arithmetic; 0: none."""
    order: Order | None = None
    """{block: 1000, window: 8}: in each epoch 8 blocks of 1000 consecutive samples are shuffled together,
    then the next 8, for datasets too large for random access; None: all samples are shuffled together."""
    sync_batchnorm: bool = True
    """BatchNorm of several workers normalises over the global batch, as one worker would."""
    ema: Ema | None = None
    """{decay: 0.999, warmup: true}: a moving average of the student's weights over the steps. Selection,
    tables, agreement with the teacher and the saved weights are then of the average; the figures of the
    weights that train stand beside (``val_raw``). null: no average."""
    channels_last: bool = False
    """Images, weights and feature maps lie in memory with their channels together, which is faster in half
    precision on a GPU."""
    compile: bool = False
    """torch.compile for student, teachers and paths, in training steps only. What cannot be compiled runs as
    it is written; a warning and the summary (``compiled``) say so."""
