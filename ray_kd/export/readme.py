"""The README of an export: what the student is, how it was taught, and how it is used."""

from __future__ import annotations

from typing import Any

from ray_kd.analysis.run_files import Row, number_in
from ray_kd.config.names import markdown
from ray_kd.config.options import OwnOptions
from ray_kd.config.spec import RunSpec
from ray_kd.export.check import METERS

EPOCHS = 8
"""Rows of the table of weights, at most."""

LOAD = {
    "torch.export": """
```python
import torch
student = torch.export.load("student.pt2").module()
outputs = student(images)          # a mapping: {outputs}
```
""",
    "onnx": """
```python
import onnxruntime
student = onnxruntime.InferenceSession("student.onnx")
outputs = student.run(None, {{"image": images.numpy()}})     # in this order: {outputs}
```
""",
}


def readme(
    spec: RunSpec, about: dict[str, Any], paths: list[Row], teachers: dict[str, str], command: str
) -> str:
    """The README's text.

    Args:
        about: as in export.json.
        paths: the run's record of paths, epoch by epoch.
        teachers: what is known of each, in words.
        command: that made this export.
    """
    parts = [
        f"# {markdown(spec.name)}: {_student(spec)}, {about['task']}",
        _figures(about),
        "## Use",
        _use(about),
        "## How it was taught",
        _taught(spec, teachers),
        *_weights_table(paths),
        "## Made by",
        f"```\n{command}\n```\n\n`spec.yaml` is the run; {_again(spec)}",
    ]
    return "\n\n".join(parts) + "\n"


def _student(spec: RunSpec) -> str:
    if isinstance(spec.student, OwnOptions):
        return f"a module of its user's own ({spec.student.described()})"
    return spec.student.component_name


def _again(spec: RunSpec) -> str:
    """How the run is trained again."""
    arguments = list(dict.fromkeys(how for _, how in spec.own_parts().values()))
    if not arguments:
        return "`ray-kd train spec.yaml` trains it again."
    call = f'distill("spec.yaml", {", ".join(arguments)})'
    return f"`{call}`, in Python and with the same objects, trains it again."


def _figures(about: dict[str, Any]) -> str:
    metric, weights = about["metric"], about["weights"]
    which = "best on validation" if weights["which"] == "best" else "the last ones"
    lines = [
        f"Run {about['run']}. Weights: {which}, of epoch {weights['epoch']}. Test {metric['name']}: "
        f"**{metric['recorded']:.4f}** on {metric['samples']:,} samples.",
        "",
        "| form | file | largest difference to the student | test " + metric["name"] + " |",
        "| --- | --- | ---: | ---: |",
    ]
    for form, found in about["verified"].items():
        value = "" if found["metric"] is None else f"{found['metric']:.4f}"
        lines.append(f"| {form} | `{about['files'][form]}` | {found['difference']:.1e} | {value} |")
    lines += [
        "",
        "Measured on the whole test split in a process without ray-kd; differences relative to the largest "
        "output. `python check.py` repeats it on the samples in `samples.safetensors`.",
    ]
    if about["task"] not in METERS:
        lines.append(f"The {metric['name']} above is the student's with ray-kd's selection of outputs.")
    return "\n".join(lines)


FITS = {
    "crop": " An image of another size: its short side is scaled to 8/7 of this, then the centre is taken.",
    "letterbox": " An image of another size is scaled to fit, and filled up on the right and below.",
}


def _use(about: dict[str, Any]) -> str:
    given, names = about["input"], about["class_names"]
    size = f"(N, {given['channels']}, {given['height']}, {given['width']})"
    scale = "normalised as in training"
    if given["mean"] is not None:
        scale = f"from [0, 1] to (x - mean) / std, with mean {given['mean']} and std {given['std']}"
    outputs = ", ".join(
        f"`{name}` (N, {', '.join(map(str, shape))})" for name, shape in about["outputs"].items()
    )
    lines = [
        f"Input: images {size}, float32, any N; pixels {scale}." + FITS.get(given["fit"], ""),
        "",
        f"Output: {outputs}.",
        "",
        f"Classes: {about['classes']}"
        + (f" ({', '.join(map(markdown, names))})." if names else "; the dataset does not say their names."),
    ]
    if about["task"] == "detection":
        lines += [
            "",
            "These are the outputs before boxes are decoded and non-maximum suppression selects some.",
            f"How they are read: `{about['head']}` of ray-kd; each of the L places starts from a box of "
            "`priors.safetensors` (L, 4).",
        ]
    for form in about["files"]:
        if form in LOAD:
            lines.append(LOAD[form].format(outputs=", ".join(about["outputs"])))
    if "safetensors" in about["files"]:
        lines.append(_weights(about["library_call"]))
    return "\n".join(lines)


def _weights(call: dict[str, Any] | None) -> str:
    if call is None:
        return "`student.safetensors` holds the weights under the names of the network that the run trained."
    plain = call["channels"] is None and "config" not in call["arguments"]
    if plain:
        arguments = ", ".join(f"{name}={value!r}" for name, value in call["arguments"].items())
        lines = [f"import {call['function'].partition('.')[0]}", f"network = {call['function']}({arguments})"]
    else:  # what it takes is long, or its first convolution is another
        made = 'network = build(**json.load(open("export.json"))["library_call"])'
        lines = ["import json", "from check import build", made, f"# which calls {call['function']}"]
    return "\n".join(
        [
            "\n```python",
            *lines[:-1],
            "from safetensors.torch import load_file",
            lines[-1],
            'network.load_state_dict(load_file("student.safetensors"))',
            "network.eval()\n```",
        ]
    )


def _taught(spec: RunSpec, teachers: dict[str, str]) -> str:
    lines = [f"- teacher {markdown(name)}: {markdown(text)}" for name, text in teachers.items()]
    several = len(spec.needed_teachers()) > 1
    for path in spec.active_paths():
        weight = path.weight if path.weight == "published" else f"{path.weight:g}"
        lines.append(
            f"- path {markdown(path.label or path.component_name)} ({path.component_name}), weight {weight}"
            + (f", from {markdown(spec.teacher_of(path))}" if several else "")
        )
    active = spec.active_paths()
    if active:
        lines.append(f"- aggregation: {spec.aggregation.component_name}, by {spec.aggregation.granularity}")
    return "\n".join(lines) if active else "By labels alone: no path was active."


def _weights_table(paths: list[Row]) -> list[str]:
    """The factor on each path's loss, over some epochs."""
    names = list(dict.fromkeys(str(row["path"]) for row in paths))
    if not names:
        return []
    found = {(row["epoch"], str(row["path"])): number_in(row.get("weight")) for row in paths}
    epochs = sorted({epoch for epoch, _ in found})
    step = max(1, -(-(len(epochs) - 1) // (EPOCHS - 1)))
    chosen = sorted({*epochs[::step], epochs[-1]})
    lines = [
        "Factor on each path's loss, mean over the steps of an epoch:",
        "",
        f"| epoch | {' | '.join(map(markdown, names))} |",
        f"| ---: |{' ---: |' * len(names)}",
    ]
    for epoch in chosen:
        values = (found.get((epoch, name)) for name in names)
        lines.append(f"| {epoch} | {' | '.join('' if v is None else f'{v:.4g}' for v in values)} |")
    return ["\n".join(lines)]
