"""A W&B run beside a run's records; it never breaks or slows a trial."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

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


def has_key() -> bool:
    """Whether this user can talk to W&B: a key in the environment, or one that 'wandb login' stored."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    homes = [Path.home() / name for name in (".netrc", "_netrc")]
    file = next((f for f in [Path(os.environ.get("NETRC") or homes[0]), *homes[1:]] if f.is_file()), None)
    try:
        return file is not None and netrc(str(file)).authenticators(host) is not None
    except (NetrcParseError, OSError):
        return False


def cell_of(name: str, sweep: str | None) -> str:
    """The strategy of a trial called 'SWEEP: CELL, seed N', by which W&B groups; a lone run's whole name."""
    return name if sweep is None else re.sub(r", seed \d+$", "", name.removeprefix(f"{sweep}: "))


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
        if mode == "online" and not has_key():
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
            config={**spec.to_dict(), "cell": cell_of(spec.name, group)},
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
