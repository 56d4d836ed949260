"""What the exported student sees in an image, without ray-kd: python use.py EXPORTED IMAGE ..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

folder = Path(sys.argv[1])
about = json.loads((folder / "export.json").read_text())
wanted, names = about["input"], about["class_names"]
network = onnxruntime.InferenceSession(str(folder / "student.onnx"))
for file in sys.argv[2:]:
    image = Image.open(file).convert("RGB").resize((wanted["width"], wanted["height"]))
    pixels = (np.asarray(image, dtype="float32") / 255 - wanted["mean"]) / wanted["std"]
    batch = pixels.transpose(2, 0, 1)[None].astype("float32")
    logits = network.run(["logits"], {"image": batch})[0][0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{file}: {names[shares.argmax()]}, {shares.max():.0%}")
