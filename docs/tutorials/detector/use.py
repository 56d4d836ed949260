"""The exported detector's best box in its stored samples, without ray-kd: python use.py EXPORTED."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

folder = Path(sys.argv[1])
names = json.loads((folder / "export.json").read_text())["class_names"]
images = load_file(folder / "samples.safetensors")["image"]
(priors,) = load_file(folder / "priors.safetensors").values()
network = onnxruntime.InferenceSession(str(folder / "student.onnx"))
outputs = network.run(["logits", "regression", "centerness"], {"image": images})
for output in outputs:
    print(output.shape)

# As FCOS has it: distances to a box's four edges, in strides, from the middle of each place.
logits, regression, centerness = outputs
scores = np.sqrt(1 / (1 + np.exp(-logits)) / (1 + np.exp(-centerness)))
for image, (score, distances) in enumerate(zip(scores[:5], regression, strict=False)):
    place, digit = np.unravel_index(score.argmax(), score.shape)
    left, top, right, bottom = priors[place]
    middle, stride = np.array([left + right, top + bottom]) / 2, right - left
    edges = np.concatenate([middle - distances[place, :2] * stride, middle + distances[place, 2:] * stride])
    box = ", ".join(f"{edge:.0f}" for edge in edges)
    print(f"sample {image}: a {names[digit]} in ({box}), score {score.max():.2f}")
