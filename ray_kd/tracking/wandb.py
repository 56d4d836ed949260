"""A W&B run beside a run's records; it never breaks or slows a trial."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Literal

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Store


def make_tracker(spec: RunSpec, group: str | None = None) -> WandbTracker | None:
    """The tracker a run asks for, or None.

    Raises:
        UserError: wandb is asked for and not installed.
    """
    if spec.tracking.wandb == "off":
        return None
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise UserError(
            "tracking.wandb: the package wandb is not installed; pip install 'ray-kd[wandb]', "
            "or set tracking.wandb=off."
        ) from None
    return WandbTracker(spec, group)


class WandbTracker:
    """One W&B run whose id is the run's identity, so that a resumed run goes on in it.

    ``online`` without a key falls back to ``offline``. Whatever W&B raises becomes one warning, and
    tracking ends; training does not.
    """

    def __init__(self, spec: RunSpec, group: str | None = None) -> None:
        self._run: Any = None
        self._guard(lambda: self._init(spec, group))

    def _init(self, spec: RunSpec, group: str | None) -> None:
        import wandb

        mode: Literal["offline", "online"] = "online" if spec.tracking.wandb == "online" else "offline"
        if mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            warnings.warn("W&B has no key: tracking offline ('wandb sync' sends it later).", stacklevel=2)
            mode = "offline"
        store = Store(spec.storage)
        folder = store.path() if store.is_local else os.getcwd()
        os.makedirs(folder, exist_ok=True)
        self._run = wandb.init(
            project=spec.tracking.project,
            id=spec.identity(),
            name=spec.name,
            group=group,
            config=spec.to_dict(),
            dir=folder,
            mode=mode,
            resume="allow",
            reinit="finish_previous",
            settings=wandb.Settings(console="off", silent=True, init_timeout=20),
        )

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            warnings.warn(f"W&B: {error}; tracking ends, training goes on.", stacklevel=3)

    def epoch(self, record: dict[str, Any], paths: list[dict[str, Any]]) -> None:
        """Log an epoch."""
        run = self._run
        if run is None:
            return
        row = {"epoch": record["epoch"], "learning_rate": record["learning_rate"]}
        for part in ("train", "val"):
            row |= {f"{part}/{name}": value for name, value in record.get(part, {}).items()}
        for path in paths:
            row |= {
                f"{kind}/{path['path']}": value
                for kind, value in path.items()
                if kind not in ("epoch", "path") and value is not None
            }
        self._guard(lambda: run.log(row, step=record["step"]))

    def finish(self, summary: dict[str, Any]) -> None:
        """Log the last figures and close the run."""
        run = self._run
        if run is None:
            return

        def end() -> None:
            for which in ("last", "best"):
                for name, value in ((summary[which] or {}).get("test") or {}).items():
                    run.summary[f"{which}/test/{name}"] = value
            run.summary["status"] = summary["status"]
            run.finish()

        self._guard(end)
        self._run = None
