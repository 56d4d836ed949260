"""The forms in which a student leaves: weights, a program of PyTorch's, a file of ONNX."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ray_kd.config.errors import UserError, unknown
from ray_kd.models import StagedModel
from ray_kd.models.tapped import TappedModel
from ray_kd.outputs import Outputs

FORMS = {"safetensors": "student.safetensors", "torch.export": "student.pt2", "onnx": "student.onnx"}
"""The file of each form."""
TRACED = 2
"""Images in the batch that a program is traced with; it takes any number."""


class Raw(nn.Module):
    """A student that returns a mapping of tensors: what holds ``Outputs`` cannot be loaded without ray-kd.

    ``logits`` where there are some, and whatever else the network outputs with, by name; no features.
    """

    def __init__(self, network: StagedModel) -> None:
        super().__init__()
        self.network = network

    @property
    def prefix(self) -> str:
        """What names of weights begin with here, and not in a run's files."""
        return "network.net." if isinstance(self.network, TappedModel) else "network."

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """The outputs to images (N, C, H, W), normalised as in training."""
        outputs: Outputs = self.network.raw(image)
        return {**({} if outputs.logits is None else {"logits": outputs.logits}), **outputs.extra}


def wanted_forms(names: Iterable[str]) -> list[str]:
    """The forms of these names, each once, in the order of ``FORMS``.

    Raises:
        UserError: none, an unknown one, or one whose packages are not installed.
    """
    names = [name.strip() for name in names if name.strip()]
    for name in names:
        if name not in FORMS:
            raise unknown("form", name, FORMS, "export --as")
    if not names:
        raise UserError(f"export --as: expected some of {', '.join(FORMS)}, got none.")
    packages = ("onnx", "onnxscript", "onnxruntime")
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if "onnx" in names and missing:
        raise UserError(
            f"export --as onnx: needs {', '.join(missing)}, which {'are' if missing[1:] else 'is'} not "
            "installed; pip install 'ray-kd[onnx]', or leave it out."
        )
    return [form for form in FORMS if form in names]


def write_forms(raw: Raw, image: Tensor, forms: Iterable[str], folder: Path) -> None:
    """Write a student into a folder, in each of these forms.

    Args:
        image: some images (N, C, H, W) of the size that it is for.

    Raises:
        UserError: PyTorch cannot trace the network.
    """
    if "safetensors" in forms:
        state = {name: value.detach().contiguous() for name, value in raw.network.state_dict().items()}
        save_file(state, folder / FORMS["safetensors"])
    if "torch.export" not in forms and "onnx" not in forms:
        return
    with _quiet():
        program = _traced(raw, image)
        if "torch.export" in forms:
            torch.export.save(program, folder / FORMS["torch.export"])
        if "onnx" in forms:
            _write_onnx(program, image, list(raw(image)), folder / FORMS["onnx"])


def _traced(raw: Raw, image: Tensor) -> Any:
    """The network as a program that takes batches of any number of images."""
    image = image[:1].repeat(TRACED, 1, 1, 1)
    shapes = {"image": {0: torch.export.Dim("batch")}}
    try:
        return torch.export.export(raw, (image,), dynamic_shapes=shapes)
    except Exception as error:
        raise _untraceable(raw, "torch.export", error) from error


def _write_onnx(program: Any, image: Tensor, names: list[str], file: Path) -> None:
    try:
        made: Any = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["image"], output_names=names
        )
        made.save(str(file), external_data=False)
    except Exception as error:
        raise UserError(
            f"export --as onnx: PyTorch cannot write this network as ONNX ({_short(error)}). The other forms "
            "may do: --as safetensors,torch.export."
        ) from error


def _untraceable(raw: Raw, form: str, error: Exception) -> UserError:
    alone = raw.network.library_call() is not None
    return UserError(
        f"export --as {form}: PyTorch cannot trace the network {type(raw.network).__name__} for batches of "
        f"any size ({_short(error)}). "
        + ("Its weights alone can go: --as safetensors." if alone else "Its forward pass has to be mended.")
    )


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block the exporters' own talk is left out: what goes wrong is an error."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
