"""The report of a sweep: one HTML file that loads no other file."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from ray_kd.analysis.across import Across
from ray_kd.analysis.across_table import across_headings, across_headline, across_notes, across_rows
from ray_kd.analysis.comparison import Comparison
from ray_kd.analysis.comparison_table import MOST, headings, sections
from ray_kd.analysis.headline import headline, option_text
from ray_kd.analysis.notes import notes
from ray_kd.analysis.plot_style import Picture
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records
from ray_kd.analysis.report_style import PAGE
from ray_kd.analysis.run_files import parse_spec, section
from ray_kd.analysis.trial_rows import ENVIRONMENT
from ray_kd.config.names import html
from ray_kd.statistics.looks import Verdict
from ray_kd.storage import Store


def report_html(
    records: Records, comparison: Comparison, pictures: Sequence[Picture], root: Folder, storage: str
) -> str:
    """The report as HTML text: no script, no external resource, light and dark.

    Args:
        root: the storage, from which the specs are quoted.
        storage: what the user calls the storage, for the commands.
    """
    sections = [
        *_result(records, comparison, pictures, root),
        *_origin(records, comparison.plan.name, storage),
    ]
    question = _question(records.trials, comparison)
    return _page(comparison.plan.name, question, headline(comparison), sections)


def tasks_report_html(
    records: Records,
    across: Across,
    parts: Mapping[str, tuple[Records, Sequence[Picture]]],
    pictures: Sequence[Picture],
    root: Folder,
    storage: str,
) -> str:
    """The report of a sweep over several tasks: the comparison across tasks first, then each task.

    Args:
        parts: the records and the figures of each task, in the order of ``across.gaps``.
    """
    heads, rows = across_headings(across), across_rows(across)
    lines = [("", entries) for entries in rows]
    sections = [
        _section("Across tasks", _wide(heads, [("", lines)]) + _list(across_notes(across))),
        *_figures(pictures),
    ]
    for gap in across.gaps:
        own, drawn = parts[gap.task]
        sections += _result(own, gap.comparison, drawn, root, f"{gap.task.capitalize()}: ")
    sections += _origin(records, across.name, storage)
    question = f"Which strategies differ from “{across.baseline}” in {len(across.gaps)} tasks?"
    if across.baseline is None:
        question = f"How do strategies do in {len(across.gaps)} tasks?"
    return _page(across.name, question, across_headline(across), sections)


def _result(
    records: Records, comparison: Comparison, pictures: Sequence[Picture], root: Folder, lead: str = ""
) -> list[str]:
    """The table, its figures, and how they came about; ``lead`` opens every title."""
    said = filter(None, (comparison.left_out(MOST), *notes(comparison)))
    return [
        _section(f"{lead}Result", _table(comparison) + _list(said)),
        *_figures(pictures, lead),
        _section(f"{lead}How it was measured", _definitions(_method(records, comparison, root))),
        _section(f"{lead}Trials that did not finish", _unfinished(comparison)),
        _section(f"{lead}Specification", _specs(records, comparison, root)),
    ]


def _origin(records: Records, name: str, storage: str) -> list[str]:
    return [
        _section("Environment", _definitions(_environment(records.trials))),
        _section("Reproduce", _commands(name, storage)),
    ]


def _page(name: str, question: str, found: str, sections: Sequence[str]) -> str:
    return PAGE.format(
        title=html(f"{name}: {question}"),
        name=html(name),
        question=html(question),
        headline=html(found),
        sections="\n".join(sections),
    )


def _question(trials: pd.DataFrame, comparison: Comparison) -> str:
    students, datasets = _values(trials, "student"), _values(trials, "dataset")
    subject = f"the student {students[0]}" if len(students) == 1 else "the student"
    place = f" on {datasets[0]}" if len(datasets) == 1 else ""
    by = f"{place}, by test {comparison.metric.title}?"
    baseline = comparison.plan.baseline
    if baseline is None:
        return f"How good does each strategy make {subject}{by}"
    return f"Which strategies make {subject} better or worse than “{baseline}”{by}"


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{html(title)}</h2>\n{body}\n</section>"


def _list(items: Iterable[str]) -> str:
    return '<ul class="notes">' + "".join(f"<li>{html(item)}</li>" for item in items) + "</ul>"


def _table(comparison: Comparison) -> str:
    groups = [
        (title, [((row.verdict or "").replace(" ", "-"), row.entries) for row in group])
        for title, group in sections(comparison, MOST)
    ]
    return _wide(headings(comparison), groups)


def _wide(headings: Sequence[str], groups: Sequence[tuple[str, list[tuple[str, tuple[str, ...]]]]]) -> str:
    """A table of groups under a title each; a row is its classes and its entries."""
    heads = "".join(f"<th>{html(head.strip()).replace(chr(10), '<br>')}</th>" for head in headings)
    lines = []
    for title, group in groups:
        if title:
            lines.append(f'<tr><th colspan="{len(headings)}">{html(title)}</th></tr>')
        for classes, entries in group:
            first, *rest = (html(entry) for entry in entries)
            cells = f'<th scope="row" dir="auto">{first}</th>'  # names may run from right to left
            cells += "".join(f"<td>{entry}</td>" for entry in rest)
            lines.append(f'<tr class="{classes}">{cells}</tr>')
    body = "\n".join(lines)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _figures(pictures: Sequence[Picture], lead: str = "") -> list[str]:
    parts = []
    for picture in pictures:
        if picture.trouble:
            said = f"It could not be drawn ({picture.trouble})."
            parts.append(_section(f"{lead}{picture.title}", f"<p>{html(said)}</p>"))
            continue
        data = base64.b64encode(picture.svg.encode()).decode()
        image = f'<img alt="{html(picture.title)}" src="data:image/svg+xml;base64,{data}">'
        caption = f"<figcaption>{html(picture.caption)}</figcaption>"
        parts.append(_section(f"{lead}{picture.title}", f"<figure>{image}{caption}</figure>"))
    return parts


def _definitions(items: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<dt>{html(term)}</dt><dd>{html(text)}</dd>" for term, text in items)
    return f"<dl>{body}</dl>"


def _method(records: Records, comparison: Comparison, root: Folder) -> list[tuple[str, str]]:
    trials = records.trials[records.trials["phase"] == "compare"]
    seeds = sorted(int(seed) for seed in trials["seed"].dropna().unique())
    finished = int((trials["status"] == "finished").sum())
    baseline = comparison.plan.baseline
    tested = "No verdicts: the sweep names no baseline."
    if baseline is not None:
        tested = (
            f"Each strategy is compared with “{baseline}” seed by seed, by repeated confidence intervals "
            "(Jennison and Turnbull, 1989) at numbers of seeds that were declared before the first look, "
            "with Bonferroni's bound over strategies and looks. One interval carries verdict, table and "
            "figure. If a seed of a look was lost, to a failure or a scheduler, there is no verdict."
        )
    students = trials[["student", "parameters"]].dropna().drop_duplicates()
    sizes = [f"{name}, {int(size):,} parameters" for name, size in students.itertuples(index=False)]
    items = [
        ("Task", ", ".join(_values(trials, "task"))),
        ("Dataset", "; ".join(_datasets(trials, root))),
        ("Student", "; ".join(sizes) or ", ".join(_values(trials, "student"))),
        ("Epochs", ", ".join(_values(trials, "planned_epochs"))),
        (
            "Trials",
            f"{finished} of {len(trials)} finished: {len(comparison.cells)} strategies, seeds "
            f"{', '.join(map(str, seeds)) or 'unknown'}",
        ),
        (
            "Splits",
            "Training data train. Validation data choose the best epoch, and steer any search or early "
            "stopping. Test data are read once, at the end of a trial, for the last weights and for those "
            "that were best on validation; both results are recorded.",
        ),
        (
            "Metric",
            f"Primary: test {comparison.metric.title} of the weights that were best on validation. The table "
            "also gives that of the last weights, which decides nothing.",
        ),
        (
            "Seeds",
            "Trials of one seed share initialisation, data order and views whatever the strategy, so "
            "strategies are compared seed by seed.",
        ),
        ("Verdicts", tested),
    ]
    return [(term, text) for term, text in items if text]


def _datasets(trials: pd.DataFrame, root: Folder) -> list[str]:
    """The datasets that the strategies use, with every option (labels, sizes of the splits)."""
    found: dict[str, None] = {}
    first = trials.drop_duplicates("cell").drop_duplicates(["dataset", "dataset_options"])
    for identity in first["identity"]:
        options = dict(section(parse_spec(root.text(f"runs/{identity}/spec.yaml")), "dataset"))
        name = options.pop("name", None)
        listed = ", ".join(
            f"{key} {option_text(value)}" for key, value in options.items() if value is not None
        )
        if name:
            found[f"{name} ({listed})" if listed else str(name)] = None
    return list(found)


def _unfinished(comparison: Comparison) -> str:
    frame = comparison.unfinished
    if frame.empty:
        return "<p>Every planned trial finished.</p>"
    heads = ("strategy", "seed", "phase", "status", "reason", "record")
    lines = []
    for cell, seed, phase, status, reason, identity in frame.head(MOST).itertuples(index=False):
        record = f"runs/{identity}/error.txt" if status == "failed" else f"runs/{identity}"
        values = (cell, seed, phase, status, "" if pd.isna(reason) else reason, record)
        lines.append("<tr>" + "".join(f"<td>{html(str(value))}</td>" for value in values) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    more = f"<p>And {len(frame) - MOST:,} more; tables/trials.parquet has all.</p>"
    return (
        f'<div class="wide"><table class="plain"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{more if len(frame) > MOST else ''}"
    )


def _environment(trials: pd.DataFrame) -> list[tuple[str, str]]:
    """What the trials ran on; where trials differ, all values are listed."""
    items = [(key.replace("_", "-"), ", ".join(_values(trials, key))) for key in ENVIRONMENT]
    started = _values(trials, "started")
    if started:
        items.append(("started", f"{min(started)} to {max(started)}"))
    return [(key, value) for key, value in items if value]


def _values(trials: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in trials[column].dropna().unique()]


def _specs(records: Records, comparison: Comparison, root: Folder) -> str:
    """The sweep's specification, and the resolved one of a trial: of a better strategy, if there is one."""
    parts = []
    sweep = root.text(f"sweeps/{comparison.plan.name}/sweep.yaml")
    if sweep:
        parts.append(_fold("The sweep", sweep))
    finished = [cell for cell in comparison.cells if cell.n]
    better = [cell for cell in finished if cell.versus and cell.versus.verdict is Verdict.BETTER]
    for cell in (better or [cell for cell in finished if cell.versus] or finished)[:1]:
        trials = records.trials
        mine = trials[(trials["cell"] == cell.name) & (trials["status"] == "finished")]
        identity, seed = mine.iloc[0]["identity"], mine.iloc[0]["seed"]
        spec = root.text(f"runs/{identity}/spec.yaml")
        if spec:
            parts.append(_fold(f"One trial of “{cell.name}” in full (seed {seed}, {identity})", spec))
    return "\n".join(parts) or "<p>No specification was recorded.</p>"


def _fold(title: str, text: str) -> str:
    return f"<details><summary>{html(title)}</summary><pre>{html(text)}</pre></details>"


def _commands(sweep: str, storage: str) -> str:
    store, file = Store(storage), f"sweeps/{sweep}/sweep.yaml"
    lines = ["# train what is missing; finished trials are found by identity"]
    if store.is_local:
        lines += [shlex.join(["ray-kd", "sweep", f"{storage}/{file}"])]
    else:  # a sweep file is read from a disk
        lines += [f"# sweep.yaml is a copy of {store.path(file)}", "ray-kd sweep sweep.yaml"]
    lines += [
        "# tables, plots and this report again",
        shlex.join(["ray-kd", "analyze", storage, "--sweep", sweep]),
    ]
    return f"<pre>{html(chr(10).join(lines))}</pre>"
