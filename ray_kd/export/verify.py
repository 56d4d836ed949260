"""The proof: a process that cannot import ray-kd replays the test split through what was exported."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ray_kd.config.errors import UserError
from ray_kd.export.check import POINT, TOLERANCE

ALONE = """
import runpy, sys
sys.modules["ray_kd"] = None
try:
    import ray_kd
except ImportError:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    sys.exit("ray_kd can be imported here")
"""
"""Runs a script where ray-kd is as if it were not installed."""
EXACT = 1e-6
"""By how much figures differ that are the same up to the order of their sums."""


def replay(folder: Path, batches: Iterable[dict[str, Tensor]]) -> dict[str, dict[str, Any]]:
    """What ``check.py`` in a folder finds for these batches, form by form.

    Raises:
        UserError: it cannot load what lies there, or ends in the middle.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", ALONE, str(folder / "check.py"), "--stream"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended: what it says is read below
                for batch in batches:
                    data = save({name: values.contiguous() for name, values in batch.items()})
                    process.stdin.write(len(data).to_bytes(8, "little"))
                    process.stdin.write(data)
                process.stdin.close()
            said = process.stdout.read()
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if code:
        raise UserError(
            "export: a process without ray-kd cannot replay what was written "
            f"({lines[-1][:500] if lines else f'exit code {code}'}). Nothing was exported."
        )
    found: dict[str, dict[str, Any]] = json.loads(said)
    return found


def require_same_outputs(found: dict[str, dict[str, Any]], metric: dict[str, Any]) -> None:
    """Refuse an export whose outputs, or whose metric, are not those of the run.

    Args:
        found: as ``replay`` gives it.
        metric: name, and the figure that the run recorded.

    Raises:
        UserError: names the form and both figures.
    """
    for form, result in found.items():
        if not result["difference"] <= TOLERANCE:
            raise UserError(
                f"export: {form} gives other outputs than the student: they differ by "
                f"{result['difference']:.1e} of the largest one, expected at most {TOLERANCE:.0e}. "
                "Nothing was exported."
            )
        if result["metric"] is not None:
            require_recorded(form, result["metric"], metric, result["moved"])


def require_recorded(where: str, value: float, metric: dict[str, Any], moved: float) -> None:
    """Refuse a figure that is not the one on record.

    Args:
        moved: by how much scores that are too close to call can move it.

    Raises:
        UserError: both figures, and why they may differ.
    """
    if not abs(value - metric["recorded"]) <= EXACT + min(moved, POINT):
        raise UserError(
            f"export: {where} has a test {metric['name']} of {value:.6f}, and the run recorded "
            f"{metric['recorded']:.6f}: its weights or its data are not what they were when it ended (a "
            "damaged file, another folder of images). Nothing was exported; 'ray-kd train --fresh' makes the "
            "run again."
        )
