"""The entry point: the verbs, and how errors are printed."""

from __future__ import annotations

import functools
import inspect
import io
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from ray_kd.cli.analyze import analyze, report
from ray_kd.cli.demo import demo
from ray_kd.cli.doctor import doctor
from ray_kd.cli.export import export
from ray_kd.cli.list import list_things
from ray_kd.cli.new import new
from ray_kd.cli.precompute import precompute, verify
from ray_kd.cli.prune import prune
from ray_kd.cli.status import status
from ray_kd.cli.sweep import sweep
from ray_kd.cli.train import teacher, train
from ray_kd.config.errors import StorageError, TrainingFailed, UserError
from ray_kd.config.faults import environment_fault
from ray_kd.config.screen import say

HELP = """
Which distillation paths, weighted how, make this student best - and can the
answer be trusted?

Start here:
  ray-kd demo                                  eight strategies, one table
  ray-kd train RUN.yaml aggregation=adaptive   one student
  ray-kd sweep SWEEP.yaml --plan               what a comparison would train
  ray-kd sweep SWEEP.yaml                      train what it still lacks
  ray-kd list aggregators adaptive             explain one method
  ray-kd export SWEEP --best --to DIR          take the best student out

Every verb explains itself: ray-kd train --help
"""

VERBS: list[tuple[str, Callable[..., None]]] = [
    ("demo", demo),
    ("train", train),
    ("teacher", teacher),
    ("sweep", sweep),
    ("precompute", precompute),
    ("verify", verify),
    ("status", status),
    ("analyze", analyze),
    ("report", report),
    ("export", export),
    ("prune", prune),
    ("list", list_things),
    ("new", new),
    ("doctor", doctor),
]


def laid_out(text: str | None) -> str:
    """A help text for Typer; paragraphs with indented lines (examples) keep their line breaks."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(f"\b\n{part}" if "\n  " in part else part for part in paragraphs)


def interruptible(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, with a message on Ctrl-C; Typer itself would print none."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            verb(*arguments, **options)
        except (KeyboardInterrupt, typer.Abort) as error:
            if isinstance(error.__context__, EOFError):
                raise UserError("a question got no answer: expected a terminal, or --yes.") from None
            why = str(error) or "stopped"
            say(f"\nray-kd: {why}; the same command resumes from here.", error=True)
            raise typer.Exit(130) from None

    return run


app = typer.Typer(
    help=laid_out(HELP),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, verb in VERBS:
    text = laid_out(verb.__doc__)
    app.command(name, help=text, short_help=text.split("\n")[0])(interruptible(verb))


def main(arguments: list[str] | None = None) -> None:
    """Run ``ray-kd``.

    Exit codes: 0: all finished; 1: something failed; 2: a user's mistake; 3: something is unfinished after a
    fault of the machine (run the command again); 130: Ctrl-C.
    """
    try:
        code = app(arguments, standalone_mode=False)
    except Exception as error:
        fault = environment_fault(error)
        if fault is not None:
            say(f"ray-kd: {fault} Unfinished: the same command resumes from here.", error=True)
            sys.exit(3)
        if isinstance(error, UserError | StorageError):
            say(f"ray-kd: {getattr(error, 'strerror', None) or error}", error=True)
            sys.exit(2)
        if isinstance(error, TrainingFailed):
            say(f"ray-kd: training failed: {error}", error=True)
            sys.exit(1)
        tell = getattr(error, "show", None)
        if tell is not None:  # Typer cannot read the command; the class of these errors has no public name
            tell(told := io.StringIO())
            say(told.getvalue(), error=True, end="")
            sys.exit(getattr(error, "exit_code", 2))
        say(traceback.format_exc(), error=True, end="")
        sys.exit(1)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
