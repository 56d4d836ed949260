"""The report of a sweep as a W&B report: composed offline, saved where there is a key and a server."""

from __future__ import annotations

from typing import Any

from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.comparison_table import markdown
from ray_kd.analysis.headline import headline
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.run_files import parse_spec
from ray_kd.config.errors import UserError
from ray_kd.config.names import printable, wandb_name
from ray_kd.tracking.wandb import has_key

_FIGURES = (
    ("Validation {title}", "val/{metric}", False),
    ("Training loss", "train/loss", True),
)
_PATH_FIGURES = (("Weight of each path", "weight", True), ("Raw loss of each path", "loss", True))


def save_report(records: Records, comparison: Comparison, root: Folder, entity: str | None = None) -> str:
    """Compose the report and save it in the sweep's W&B project; returns its address.

    Args:
        entity: the W&B user or team that owns it; default: that of the key.

    Raises:
        UserError: the extra is not installed, there is no key, or the server refuses.
    """
    _require_package()
    if not has_key():
        raise UserError(
            "report --wandb: the report cannot be saved, since W&B has no key. Set "
            "WANDB_API_KEY or run 'wandb login' (and WANDB_BASE_URL for a server of your own), send offline "
            "runs with 'wandb sync', then repeat this command. report.html needs none of that."
        )
    import wandb

    try:
        owner = entity or str(wandb.Api().default_entity)
        report = compose(records, comparison, root, owner)
        report.save()
        return str(report.url)
    except Exception as error:  # W&B's client raises exceptions of many libraries
        raise UserError(f"report --wandb: W&B did not save the report ({error}).") from error


def compose(records: Records, comparison: Comparison, root: Folder, entity: str) -> Any:
    """The report, a ``wandb_workspaces.reports.v2.Report``; needs neither key nor network.

    Headline and table are those of report.html. Curves follow where the trials were tracked, drawn
    by W&B from the sweep's runs, one line for each strategy.
    """
    _require_package()
    import wandb_workspaces.reports.v2 as wr

    name, tracking = comparison.plan.name, _tracking(comparison.plan.name, root)
    project = str(tracking.get("project") or "ray-kd")
    blocks: list[Any] = [wr.H1("Result"), wr.MarkdownBlock(markdown(comparison))]
    if tracking.get("wandb", "off") in ("off", False):
        blocks.append(
            wr.MarkdownBlock("The trials were not tracked with W&B (`tracking.wandb: off`): no curves here.")
        )
    else:
        runs = wr.Runset(
            entity=entity,
            project=project,
            name=name,
            filters=f"Group = '{name}'",
            groupby=["config.cell"],
        )
        blocks += [
            wr.H1("Curves"),
            wr.MarkdownBlock("A line is the mean over a strategy's seeds, its band least to largest."),
            wr.PanelGrid(runsets=[runs], panels=_panels(records, comparison)),
        ]
    return wr.Report(
        entity=entity,
        project=project,
        title=wandb_name(f"{name}: strategies beside {comparison.plan.baseline or 'one another'}"),
        description=printable(headline(comparison)),
        blocks=blocks,
        width="fluid",
    )


def _panels(records: Records, comparison: Comparison) -> list[Any]:
    """A bar for each strategy's test figure, and a line for each strategy in the others."""
    import wandb_workspaces.reports.v2 as wr

    metric = comparison.metric
    grouped: dict[str, Any] = {"groupby": wr.Config("cell"), "groupby_aggfunc": "mean"}
    panels: list[Any] = [
        wr.BarPlot(
            title=f"Test {metric.title} of the weights best on validation (bar: mean of seeds)",
            metrics=[wr.SummaryMetric(f"best/test/{metric.name}")],
            groupby_rangefunc="minmax",
            layout=wr.Layout(x=0, y=0, w=24, h=10),
            **grouped,
        )
    ]
    curves = [
        (title.format(title=metric.title), [y.format(metric=metric.name)], log) for title, y, log in _FIGURES
    ]
    paths = [str(path) for path in records.paths["path"].unique()]
    curves += [
        (title, [f"{kind}/{path}" for path in paths], log) for title, kind, log in _PATH_FIGURES if paths
    ]
    for index, (title, y, log) in enumerate(curves):
        panels.append(
            wr.LinePlot(
                title=title,
                x="epoch",
                y=y,
                title_x="Epoch",
                log_y=log,
                groupby_rangefunc="minmax",
                layout=wr.Layout(x=12 * (index % 2), y=10 + 8 * (index // 2), w=12, h=8),
                **grouped,
            )
        )
    return panels


def _tracking(sweep: str, root: Folder) -> dict[str, Any]:
    """The tracking section of the sweep's base run."""
    base = parse_spec(root.text(f"sweeps/{sweep}/sweep.yaml")).get("base")
    tracking = base.get("tracking") if isinstance(base, dict) else None
    return tracking if isinstance(tracking, dict) else {}


def _require_package() -> None:
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise UserError(
            "report --wandb: the package wandb-workspaces is not installed; pip install 'ray-kd[wandb]'."
        ) from None
