"""ray-kd analyze, ray-kd report."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_kd.cli.common import say_left_out, shown
from ray_kd.config.errors import UserError
from ray_kd.config.screen import say, show

Storage = Annotated[str, typer.Argument(help="The storage folder.")]
SweepName = Annotated[
    str | None, typer.Option("--sweep", help="Which sweep; default: the only one.", show_default=False)
]
Out = Annotated[
    str | None,
    typer.Option("--out", help="Where to write; default: the sweep's folder.", show_default=False),
]


def analyze(
    storage: Storage = "results",
    sweep: SweepName = None,
    out: Out = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="PARTS", help="Which parts, joined by commas; see above.", show_default=False
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy", help="Of pictures: whose student; default: the best mean.", show_default=False
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", min=1, help="Of pictures: how many; default: 4.", show_default=False),
    ] = None,
) -> None:
    """Turn records into tables, statistics, plots and a report.

    Works while a sweep runs. Writes the first four of these parts, or those
    that --only names:
      tables       tables/trials.parquet, epochs.parquet and paths.parquet
      comparison   table.md, table.csv and tables/comparison.parquet, and prints
                   the table
      plots        plots/: comparison, weight and loss of every path, as PNG
                   and SVG
      report       report.html with the table and the plots
      pictures     plots/predictions_TASK: masks or boxes that teacher, student
                   alone and distilled student predict, from their weights
      variance     which source of chance matters most; needs an axis vary
      attribution  what each path is worth; needs all subsets of the paths
      budget       what searches of 1 to 20 candidates find; needs random ones
      cost         accuracy beside training seconds and parameters

    Examples:
      ray-kd analyze
      ray-kd analyze results --sweep digits --out paper/
      ray-kd analyze results --only comparison,plots
      ray-kd analyze results --only pictures --strategy utility --images 6
    """
    from ray_kd import analysis
    from ray_kd.analysis.pipeline import parts

    chosen = parts(only or None)
    for option, value in (("--strategy", strategy), ("--images", images)):
        if value is not None and "pictures" not in chosen:
            raise UserError(f"{option} {value}: it is an option of pictures; add --only pictures.")
    found = analysis.analyze(storage, sweep, out, chosen, strategy, images or 4)
    if "comparison" in chosen:
        show(found.table)
    say(found.answers, end="")
    for path in sorted(found.files.values()):
        say(shown(path))
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
    say(shown(found.files["report.html"]))
    if wandb:
        from ray_kd.analysis.reader import Folder
        from ray_kd.analysis.wandb_report import save_report

        for task, comparison in found.results.comparisons.items():
            part = found.results.parts[task]
            say(save_report(part, comparison, Folder.open(storage), entity))
    say_left_out(found.left_out)
