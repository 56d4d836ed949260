"""Networks of timm and of transformers that are small enough for tests."""

from __future__ import annotations

import importlib.util
from typing import Any

VIT: dict[str, Any] = {
    "name": "timm",
    "model": "vit_tiny_patch16_224",
    "arguments": {"patch_size": 4, "embed_dim": 12, "depth": 4, "num_heads": 2},
}
DEIT = {**VIT, "model": "deit_tiny_distilled_patch16_224"}
SWIN: dict[str, Any] = {
    "name": "timm",
    "model": "swin_tiny_patch4_window7_224",
    "arguments": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
}
TOKENS = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 16}
HF_VIT = {"model_type": "vit", **TOKENS, "patch_size": 8}
HF_DEIT = {**HF_VIT, "model_type": "deit"}
HF_SWIN = {
    "model_type": "swin",
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 2,
}
SEGFORMER = {
    "model_type": "segformer",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
LIBRARIES = {"timm": "timm", "huggingface": "transformers"}
"""The package that a model needs, which may not be installed."""


def is_installed(model: str) -> bool:
    """Whether the package that a model needs is there."""
    return model not in LIBRARIES or importlib.util.find_spec(LIBRARIES[model]) is not None


def rebuilt(model: Any) -> Any:
    """The same network by its library's own call, with the model's weights, as one does without ray-kd."""
    import json

    from ray_kd.export.check import build

    call = model.library_call()
    network = build(call.function, json.loads(json.dumps(call.arguments)), call.channels)
    network.load_state_dict(model.state_dict())
    return network.eval()
