"""Replay samples through an exported student, and compare its outputs with those that ray-kd's student gave.

It needs PyTorch and safetensors, for student.onnx onnxruntime, for a network that a library builds that
library. It does not need ray-kd: `ray-kd export` runs it on the whole test split in a process that has no
ray-kd, before it says that an export is done.

    python check.py      the samples that lie beside it
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4
"""By how much an output may differ, relative to the largest one of its kind in a batch."""
POINT = 0.01
"""By how much the metric may differ, whatever is undecided."""
IGNORE = 255
"""The class of a pixel that nobody labelled."""

Outputs = dict[str, Tensor]
Network = Callable[[Tensor], Mapping[str, Tensor]]


def from_safetensors(about: dict[str, Any]) -> Network:
    """The network that a library builds, or else that of the program, with the weights of the file."""
    weights, call = load_file(HERE / "student.safetensors"), about["library_call"]
    if call is None:
        program = torch.export.load(HERE / "student.pt2").module()
        program.load_state_dict({f"{about['prefix']}{name}": value for name, value in weights.items()})
        return lambda image: program(image)
    network = build(call["function"], call["arguments"], call["channels"])
    network.load_state_dict(weights)
    network.eval()
    return lambda image: outputs_of(network, image)


def build(function: str, arguments: dict[str, Any], channels: int | None) -> nn.Module:
    """The library's network; with a first convolution for other channels, where images have others."""
    package, *names = function.split(".")
    maker: Any = importlib.import_module(package)
    for name in names:
        package = f"{package}.{name}"
        maker = getattr(maker, name, None) or importlib.import_module(package)
    if isinstance(arguments.get("config"), dict):  # what transformers builds networks from is an object
        config = importlib.import_module("transformers").AutoConfig.for_model(**arguments["config"])
        arguments = {**arguments, "config": config}
    network: nn.Module = maker(**arguments)
    if channels is not None:
        where, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
        sizes: Any = {name: getattr(first, name) for name in ("kernel_size", "stride", "padding")}
        new = nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **sizes)
        parent, _, last = where.rpartition(".")
        setattr(network.get_submodule(parent), last, new)
    return network


def outputs_of(network: Any, image: Tensor) -> Outputs:
    """What a library's network gives; of torchvision's detectors what is there before boxes are selected."""
    if hasattr(network, "rpn"):
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        found = concat_box_prediction_layers(*network.rpn.head(list(network.backbone(image).values())))
        shapes = {"objectness": 1, "regression": 4}
        return {
            name: values.reshape(len(image), -1, size)
            for (name, size), values in zip(shapes.items(), found, strict=True)
        }
    if hasattr(network, "anchor_generator"):
        found = network.head(list(network.backbone(image).values()))
        names = {"cls_logits": "logits", "bbox_regression": "regression", "bbox_ctrness": "centerness"}
        return {names[name]: values for name, values in found.items()}
    found = network(image)
    if not isinstance(found, Tensor):
        found = found["out"] if "out" in found else found["logits"]
    return {"logits": found}


def from_program(about: dict[str, Any]) -> Network:
    """The program that torch.export wrote."""
    program = torch.export.load(HERE / "student.pt2").module()
    return lambda image: program(image)


def from_onnx(about: dict[str, Any]) -> Network:
    """The ONNX file, by onnxruntime on the processor."""
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(HERE / "student.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(image: Tensor) -> Outputs:
        found = session.run(None, {"image": image.numpy()})
        return {name: torch.from_numpy(values) for name, values in zip(names, found, strict=True)}

    return run


NETWORKS = {"safetensors": from_safetensors, "torch.export": from_program, "onnx": from_onnx}


class Meter(Protocol):
    """Reads outputs batch by batch."""

    def add(self, logits: Tensor, batch: Mapping[str, Tensor]) -> None: ...

    def result(self) -> tuple[float, float]: ...


class Classification:
    """Top-1 accuracy.

    Args:
        slack: two scores that are closer than this, relative to the largest, are undecided: another
            processor may put either first.
    """

    def __init__(self, slack: float) -> None:
        self.slack, self.count, self.hits, self.undecided = slack, 0, 0, 0

    def add(self, logits: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Read a batch."""
        self.count += len(logits)
        self.hits += int((logits.argmax(dim=1) == batch["label"]).sum())
        self.undecided += int(undecided(logits, self.slack).sum())

    def result(self) -> tuple[float, float]:
        """The metric, and by how much the undecided can move it."""
        return self.hits / self.count, self.undecided / self.count


class Segmentation:
    """Mean IoU over the classes that occur, in the truth or in the outputs."""

    def __init__(self, slack: float) -> None:
        self.slack, self.undecided = slack, 0
        self.pairs = torch.zeros(0, 0, dtype=torch.int64)

    def add(self, logits: Tensor, batch: Mapping[str, Tensor]) -> None:
        """Read a batch, its logits brought to the resolution of its masks."""
        mask, classes = batch["mask"].long(), logits.shape[1]
        logits = resized(logits, mask)
        valid = mask != IGNORE
        pairs = mask[valid] * classes + logits.argmax(dim=1)[valid]
        counted = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        self.pairs = counted if not len(self.pairs) else self.pairs + counted
        self.undecided += int(undecided(logits, self.slack)[valid].sum())

    def result(self) -> tuple[float, float]:
        """The metric, and by how much the undecided can move it."""
        pairs = self.pairs.double()
        hits = pairs.diagonal()
        union = pairs.sum(0) + pairs.sum(1) - hits
        there = union > 0
        if not there.any():
            return 0.0, 0.0
        moved = 2 * self.undecided / float(there.sum() * union[there].min())
        return float((hits[there] / union[there]).mean()), moved


METERS: dict[str, Callable[[float], Meter]] = {"classification": Classification, "segmentation": Segmentation}


def undecided(logits: Tensor, slack: float) -> Tensor:
    """Where the first two classes (dimension 1) are too close to tell which is first."""
    if logits.shape[1] < 2:
        return torch.zeros_like(logits[:, 0], dtype=torch.bool)
    first = logits.topk(2, dim=1).values
    return (first[:, 0] - first[:, 1]) <= slack * logits.abs().amax(dim=1)


def resized(logits: Tensor, like: Tensor) -> Tensor:
    """Scores of pixels (N, K, h, w) at the resolution of (..., H, W)."""
    size = like.shape[-2:]
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest difference of any output, relative to the largest output of its kind."""
    worst = 0.0
    for name, values in wanted.items():
        here = found[name]
        if here.shape != values.shape and here.dim() == values.dim() == 4:
            values = resized(values, here)  # torchvision enlarges what its network gives
        if here.shape != values.shape:
            return float("inf")
        largest = float(values.abs().max())
        apart = float((here - values).abs().max()) / (largest or 1.0)
        worst = max(worst, apart if apart == apart else float("inf"))
    return worst


def streamed(source: BinaryIO) -> Iterator[Outputs]:
    """Batches from another process: eight bytes that say how long each is, then it, as safetensors."""
    while size := source.read(8):
        yield load(source.read(int.from_bytes(size, "little")))


@torch.no_grad()
def check(about: dict[str, Any], batches: Iterable[Outputs]) -> dict[str, dict[str, Any]]:
    """For each form: the largest difference, and the metric with what the undecided can move it by."""
    networks = {form: NETWORKS[form](about) for form in about["forms"]}
    apart = dict.fromkeys(networks, 0.0)
    meter = METERS.get(about["task"])
    meters = {form: meter(about["metric"]["slack"]) for form in networks if meter is not None}
    for number, batch in enumerate(batches):
        wanted = {name[7:]: values for name, values in batch.items() if name.startswith("output.")}
        for form, network in networks.items():
            found = network(batch["image"])
            apart[form] = max(apart[form], difference(found, wanted))
            if number == 0:  # a batch of one sample, so that two sizes of batches are seen
                one = network(batch["image"][:1])
                first = {name: values[:1] for name, values in found.items()}
                apart[form] = max(apart[form], difference(one, first))
            if form in meters:
                meters[form].add(found["logits"], batch)
    results: dict[str, dict[str, Any]] = {}
    for form in networks:
        value, moved = meters[form].result() if form in meters else (None, None)
        results[form] = {"difference": apart[form], "metric": value, "moved": moved}
    return results


def main() -> None:
    """Check what lies beside this file; exit code 1 where an output differs."""
    about = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    if "--stream" in sys.argv[1:]:
        print(json.dumps(check(about, streamed(sys.stdin.buffer))))
        return
    samples, wrong = load_file(HERE / "samples.safetensors"), False
    for form, found in check(about, [samples]).items():
        good = found["difference"] <= TOLERANCE
        wrong |= not good
        figure = f", {about['metric']['name']} {found['metric']:.4f}" if found["metric"] is not None else ""
        print(
            f"{'ok   ' if good else 'WRONG'} {form}: {len(samples['image'])} samples, largest difference "
            f"{found['difference']:.1e} (at most {TOLERANCE:.0e}){figure}"
        )
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
