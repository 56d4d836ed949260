"""ray-kd analyze, ray-kd report."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_kd.cli.common import say_left_out, shown

Storage = Annotated[str, typer.Argument(help="The storage folder.")]
SweepName = Annotated[
    str | None, typer.Option("--sweep", help="Which sweep; default: the only one.", show_default=False)
]
Out = Annotated[
    str | None,
    typer.Option("--out", help="Where to write; default: the sweep's folder.", show_default=False),
]


def analyze(storage: Storage = "results", sweep: SweepName = None, out: Out = None) -> None:
    """Turn records into tables, statistics, plots and a report.

    Works while a sweep runs. Writes trials, epochs and paths as Parquet, the
    comparison as Markdown and CSV, plots as PNG and SVG, and report.html.

    Examples:
      ray-kd analyze
      ray-kd analyze results --sweep digits --out paper/
    """
    from rich.console import Console

    from ray_kd import analysis

    found = analysis.analyze(storage, sweep, out)
    Console().print(found.table)
    for path in sorted(found.files.values()):
        print(shown(path))
    say_left_out(found.left_out)


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
    """Do the same as analyze, but print only the path of the HTML report.

    The report is one self-contained file: send it to anybody.

    Examples:
      ray-kd report
      ray-kd report results --sweep digits
      ray-kd report results --sweep digits --wandb    as a W&B report, too
    """
    from ray_kd import analysis

    found = analysis.analyze(storage, sweep, out)
    print(shown(found.files["report.html"]))
    if wandb:
        from ray_kd.analysis.reader import Folder
        from ray_kd.analysis.wandb_report import save_report

        for task, comparison in found.findings.comparisons.items():
            part = found.findings.parts[task]
            print(save_report(part, comparison, Folder.open(storage), entity))
    say_left_out(found.left_out)
