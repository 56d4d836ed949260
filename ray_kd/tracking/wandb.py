"""Track a run with W&B, beside its records; tracking never breaks or slows the run."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ray_kd.config.errors import UserError
from ray_kd.config.names import printable_in, wandb_name
from ray_kd.config.screen import logger
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Store

LOG = logger(__name__)


def require_wandb(spec: RunSpec) -> None:
    """Check that wandb is installed if a run asks for it; nothing is imported."""
    if spec.tracking.wandb != "off" and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"tracking.wandb: '{spec.tracking.wandb}' needs the package wandb, which is not installed; "
            "pip install 'ray-kd[wandb]', or set tracking.wandb=off."
        )


def make_tracker(spec: RunSpec, group: str | None = None) -> WandbTracker | None:
    """The tracker a run asks for, or None."""
    return None if spec.tracking.wandb == "off" else WandbTracker(spec, group)


def has_key() -> bool:
    """Whether there is a W&B key: in the environment, or stored by 'wandb login'."""
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
    """The W&B group: the strategy of a trial named 'SWEEP: CELL, seed N'; a single run's whole name."""
    return name if sweep is None else re.sub(r", seed \d+$", "", name.removeprefix(f"{sweep}: "))


class WandbTracker:
    """One W&B run whose id is the run's identity, so that a resumed run continues it.

    It is opened with the first epoch, so that a run that had already ended creates nothing. ``online``
    without a key falls back to ``offline``. If W&B raises an error, one warning is logged and tracking
    ends, while training continues.
    """

    def __init__(self, spec: RunSpec, group: str | None = None) -> None:
        self._spec, self._group = spec, group
        self._run: Any = None
        self._broken = False

    def _open(self) -> Any:
        import wandb

        spec = self._spec
        mode: Literal["offline", "online"] = "online" if spec.tracking.wandb == "online" else "offline"
        if mode == "online" and not has_key():
            LOG.warning("W&B has no key: tracking offline; 'wandb login' and 'wandb sync' send it later.")
            mode = "offline"
        store = Store(spec.storage)
        folder = store.path() if store.is_local else os.getcwd()
        os.makedirs(folder, exist_ok=True)
        return wandb.init(
            project=spec.tracking.project,
            id=spec.identity(),
            name=wandb_name(spec.name),
            group=self._group,
            config=printable_in({**spec.to_dict(), "cell": cell_of(spec.name, self._group)}),
            dir=folder,
            mode=mode,
            resume="allow",
            reinit="finish_previous",
            # Offline there is no network to wait for, only a machine that may be busy.
            settings=wandb.Settings(console="off", silent=True, init_timeout=20 if mode == "online" else 90),
        )

    def _tell(self, action: Callable[[Any], None]) -> None:
        """Call ``action`` with the W&B run, which is opened if needed; never raises."""
        if self._broken:
            return
        try:
            if self._run is None:
                self._run = self._open()
            action(self._run)
        except Exception as error:
            self._run, self._broken = None, True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            LOG.warning("W&B: %s; tracking ends, training continues.", reason)

    def epoch(self, record: dict[str, Any], paths: list[dict[str, Any]]) -> None:
        """Log an epoch."""
        row = {"epoch": record["epoch"], "learning_rate": record["learning_rate"]}
        for part in ("train", "val", "val_raw"):
            row |= {f"{part}/{name}": value for name, value in record.get(part, {}).items()}
        for path in paths:
            row |= {
                f"{kind}/{path['path']}": value
                for kind, value in path.items()
                if kind not in ("epoch", "path") and value is not None
            }
        self._tell(lambda run: run.log(row, step=record["step"]))

    def finish(self, summary: dict[str, Any]) -> None:
        """Log the final metrics and close the run."""

        def end(run: Any) -> None:
            for which in ("last", "best"):
                for name, value in ((summary[which] or {}).get("test") or {}).items():
                    run.summary[f"{which}/test/{name}"] = value
            run.summary["status"] = summary["status"]
            run.finish(exit_code=int(summary["status"] == "failed"))

        self._tell(end)
        self._run = None
