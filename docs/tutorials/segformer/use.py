"""Run the exported student over its stored samples, without ray-kd: python use.py EXPORTED."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

folder = Path(sys.argv[1])
samples = load_file(folder / "samples.safetensors")
images = samples["image"]
network = onnxruntime.InferenceSession(str(folder / "student.onnx"))
(logits,) = network.run(["logits"], {"image": images})
height, width = images.shape[2:]
scaled = [Image.fromarray(one).resize((width, height), Image.Resampling.BILINEAR) for one in logits[0]]
mask = np.stack([np.asarray(one) for one in scaled]).argmax(0)
print(f"{len(images)} samples, logits {logits.shape}; the mask of the first, a part of its pixels:")
for row in mask[::4, ::2]:
    print("".join("." if pixel == 0 else str(pixel - 1) for pixel in row))
