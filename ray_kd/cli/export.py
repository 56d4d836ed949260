"""ray-kd export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ray_kd.cli.common import StorageOption, shown, typed
from ray_kd.config.names import one_line
from ray_kd.config.screen import say

if TYPE_CHECKING:
    import pandas as pd


def export(
    which: Annotated[
        str, typer.Argument(metavar="RUN|SWEEP[:CELL]", help="A run's identity (its beginning), or a sweep.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="A folder that is empty, or not there.")],
    forms: Annotated[
        str, typer.Option("--as", help="Forms: safetensors, torch.export, onnx.")
    ] = "safetensors,torch.export",
    best: Annotated[
        bool, typer.Option("--best", help="Of a sweep: the student that was best on validation.")
    ] = False,
    last: Annotated[
        bool, typer.Option("--last", help="The last weights, not those best on validation.")
    ] = False,
    storage: StorageOption = None,
) -> None:
    """Take a trained student out, in files that need no ray-kd.

    Weights, a program of PyTorch's, an ONNX file; with them class names,
    normalisation, input size, the recorded metric, and a README. Before it
    says done, a process without ray-kd replays the test split: the outputs
    and the metric have to be the run's, or nothing is left.

    Examples:
      ray-kd export digits --best --to exported/digits
      ray-kd export 3f2a91c0 --to exported/digits --as safetensors,onnx
      ray-kd export "digits:soft target" --best --to exported/soft
    """
    from ray_kd.export import export_run

    flags = [f"--{name}" for name, given in (("best", best), ("last", last)) if given]
    done = export_run(
        storage or "results",
        which,
        to,
        forms.split(","),
        best=best,
        last=last,
        command=typed("export", which, *flags, to=to, storage=storage, **{"as": forms}),
    )
    name, value = done.metric
    say(f"run {done.run}: test {name} {value:.4f}, the same on {done.samples:,} replayed samples")
    for form, apart in done.differences.items():
        say(f"  {form}: largest difference {apart:.1e}")
    say(f"exported: {shown(done.folder)}     (README.md says how it is used)")


def best_lines(trials: pd.DataFrame, sweep: str, storage: str) -> Iterator[str]:
    """What the end of a sweep and ``ray-kd status`` say: the best student, and how it is taken out."""
    from ray_kd.analysis.best_student import best_students

    found = best_students(trials)
    for best in found:
        of = f" of {best.task}" if len(found) > 1 else ""
        yield (
            f"best student{of} by validation: “{one_line(best.cell)}”, seed {best.seed} ({best.metric} "
            f"{best.value:.4f} there, on which the choice among {best.among} rests)"
        )
        which = [sweep, "--best"] if len(found) == 1 else [best.identity]
        place = shown(storage)
        where = None if place == "results" else place
        yield f"  {typed('export', *which, to=f'exported/{sweep}', storage=where)}"
