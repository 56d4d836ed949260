"""The entry point: verbs, and what the user sees when something is wrong."""

from __future__ import annotations

import sys

import typer

from ray_kd.cli.analyze import analyze, report
from ray_kd.cli.demo import demo
from ray_kd.cli.doctor import doctor
from ray_kd.cli.list import list_things
from ray_kd.cli.status import status
from ray_kd.cli.sweep import sweep
from ray_kd.cli.train import teacher, train
from ray_kd.config.errors import TrainingFailed, UserError

HELP = """
Which distillation paths, weighted how, make this student best - and can the answer be trusted?

Start here:

  ray-kd demo                                   nine strategies on real data, a table in minutes

  ray-kd train RUN.yaml aggregation=adaptive    one student

  ray-kd sweep SWEEP.yaml --plan                what a comparison would train

  ray-kd sweep SWEEP.yaml                       train it; again: only what is missing

  ray-kd list aggregators adaptive              explain one method
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(demo)
app.command()(train)
app.command()(teacher)
app.command()(sweep)
app.command()(status)
app.command()(analyze)
app.command()(report)
app.command("list")(list_things)
app.command()(doctor)


def main(arguments: list[str] | None = None) -> None:
    """Run ``ray-kd``; exits 0 when done, 1 when training failed, 2 for a user's mistake, 130 on Ctrl-C."""
    try:
        app(arguments)
    except UserError as error:
        print(f"ray-kd: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingFailed as error:
        print(f"ray-kd: training failed: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        print(f"\nray-kd: {error or 'stopped'}; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
