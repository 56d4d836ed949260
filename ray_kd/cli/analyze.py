"""ray-kd analyze, ray-kd report."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_kd.cli.common import shown

Storage = Annotated[str, typer.Argument(help="The storage folder.")]
SweepName = Annotated[
    str | None, typer.Option("--sweep", help="Which sweep; default: the only one.", show_default=False)
]
Out = Annotated[
    str | None,
    typer.Option("--out", help="Where to write; default: the sweep's folder.", show_default=False),
]


def analyze(storage: Storage = "results", sweep: SweepName = None, out: Out = None) -> None:
    """Records to Parquet tables, statistics, plots and a report; works while a sweep runs.

    Example: ray-kd analyze results --sweep digits --out paper/
    """
    from rich.console import Console

    from ray_kd import analysis

    found = analysis.analyze(storage, sweep, out)
    Console().print(found.table)
    for path in sorted(found.files.values()):
        print(shown(path))


def report(
    storage: Storage = "results",
    sweep: SweepName = None,
    out: Out = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Save it as a W&B report, too; needs a key.")
    ] = False,
    entity: Annotated[
        str | None,
        typer.Option("--entity", help="With --wandb: the user or team that owns it.", show_default=False),
    ] = None,
) -> None:
    """The same, and only says where the self-contained HTML report lies.

    Examples: ray-kd report results;  ray-kd report results --sweep digits --wandb
    """
    from ray_kd import analysis

    found = analysis.analyze(storage, sweep, out)
    print(shown(found.files["report.html"]))
    if wandb:
        from ray_kd.analysis.reader import Folder
        from ray_kd.analysis.wandb_report import save_report

        print(save_report(found.records, found.comparison, Folder.open(storage), entity))
