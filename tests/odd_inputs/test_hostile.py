"""Texts that would command a terminal, a browser or a spreadsheet go escaped into everything that is written.

Names are tested in ``test_names``; here are errors, files and records that anybody may have written.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import time
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from torch import nn

from ray_kd.analysis import run_list
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.schema import columns_to_arrow, to_arrow
from ray_kd.analysis.table_text import markdown_table
from ray_kd.cli.main import main
from ray_kd.cluster.attempts import Attempts
from ray_kd.cluster.progress import Progress
from ray_kd.cluster.sweep import SweepResult
from ray_kd.config import names
from ray_kd.config.ending import Ending, reason_of
from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.config.faults import EnvironmentFault
from ray_kd.config.screen import logger, say, show
from ray_kd.config.sweep import SweepSpec
from ray_kd.config.yamlio import dump_yaml, parse_yaml
from ray_kd.outputs import Outputs
from ray_kd.storage import Store
from ray_kd.training.distill import distill
from ray_kd.trials.job import RETRIES
from ray_kd.trials.ledger import LEFT_OUT, Outcome, node_line
from tests.analysis.make_records import Strategy, make_records
from tests.helpers import TINY, tiny
from tests.training.test_failures import own_pairs
from tests.trials.test_pause import taken
from tests.trials.test_trial_queue import end, queue

HOSTILE = {
    "colour": "loss \x1b[31mred\x1b[0m",
    "clears the screen": "\x1b[2J\x1b[H all trials finished",
    "title of the window": "\x1b]0;owned\x07",
    "link to elsewhere": "\x1b]8;;http://x\x1b\\click\x1b]8;;\x1b\\",
    "one byte, as C1 has it": "\x9b31mred",
    "writes over its line": "failed\rfinished",
    "backspaces": "bad\b\b\bgood",
    "NUL": "a\x00b",
    "from right to left": "safe\u202egpj.exe",
    "isolated": "a\u2066b\u2069c",
    "half a pair": "a\udcffb",
    "a script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "an attribute": "\" onmouseover='alert(1)",
    "a formula": "=cmd|'/c calc'!A1",
    "a formula after a feed": "\n=1+1",
    "a wide formula": "\uff1d1+1",
    "style": "[bold]x[/bold][link=http://x]y[/link] :smile:",
    "Markdown": "# h1\n> quoted ![x](http://x) | a | `b` <b> $x$",
}
FORBIDDEN = {chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cs")} - {
    "\n",
    "\t",
}
FORBIDDEN |= {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def assert_harmless(text: str) -> None:
    assert not FORBIDDEN & set(text), ascii(text)
    text.encode()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_every_writer_escapes(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=500)
    for what in (text, Panel(Text(text), title="x"), Text(text, style="bold")):
        show(what, console)
    say(text)
    say(text, error=True)
    logger("ray_kd.hostile").warning("%s %s", "100 %", text)
    files = Folder.open(tmp_path)
    files.write("x.txt", text)
    kept = [
        names.printable(text),
        names.one_line(text),
        names.markdown(text),
        names.html(text),
        names.wandb_name(text * 20),
        names.shortened(text * 20),
        str(names.csv_text(text)),
        json.dumps(names.printable_in({text: [text, {"a": text}]}), ensure_ascii=False),
        reason_of(RuntimeError(text)),
        reason_of(TrainingFailed(text)),
        str(UserError(text)),
        str(EnvironmentFault(text)),
        str(to_arrow("trials", [{"reason": text, "host": None}])["reason"][0]),
        str(columns_to_arrow("paths", {"path": [text, None]})["path"][0]),
        "\n".join(markdown_table([f"{text}\nunit", text], [[text, text]])),
        (tmp_path / "x.txt").read_bytes().decode(),
        *capsys.readouterr(),
        *caplog.messages,
    ]
    for written in kept:
        assert_harmless(written)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert_harmless(re.sub(r"\x1b\[[01]m", "", shown))  # bold, and its end, are ours
    assert not {"<", ">", '"', "'"} & set(names.html(text))
    assert not str(names.csv_text(text)).startswith(names.FORMULA)
    assert "\n" not in names.markdown(text)
    assert not names.markdown(text).startswith(("#", ">"))
    assert names.printable(names.printable(text)) == names.printable(text)


@pytest.mark.parametrize("text", [text for text in HOSTILE.values() if "\udcff" not in text])
def test_a_spec_with_such_a_text_is_read_as_it_was_and_shows_it_escaped(text: str) -> None:
    data = {"dataset": {"root": text, "of": [text, "caf\u00e9"]}}
    written = dump_yaml(data)
    assert_harmless(written)
    assert "caf\u00e9" in written
    assert parse_yaml(written, "here") == data


@pytest.mark.parametrize(
    "text", ["a\nb\tc", "caf\u00e9 \u4e2d\u6587 \u05e9\u05dc\u05d5\u05dd", "\U0001f468\u200d\U0001f52c"]
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert names.printable(text) == text


@pytest.mark.parametrize("name", ["a\u202eb", "a\u2067b", "\x9b31m"])
def test_names_that_turn_the_order_of_others_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"U\+{ord(max(name)):04X}"):
        SweepSpec.parse({"name": "x", "base": TINY, "cells": {name: {}}})


class Hostile(nn.Module):
    """A network that fails with a message that it chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.seen = nn.Linear(64, 10), 0

    def forward(self, image: torch.Tensor) -> Outputs:
        self.seen += self.training
        if self.seen > 3:
            raise ValueError("".join(HOSTILE.values()))
        return Outputs(logits=self.head(image.flatten(1)))


def test_the_error_of_a_run_is_kept_and_shown_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {"train": own_pairs(60), "validation": own_pairs(20), "test": own_pairs(30)}
    with pytest.raises(ValueError, match="loss"):
        distill(tiny(tmp_path, paths=[], teacher=None), student=Hostile(), **sets)
    (folder,) = (tmp_path / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "\\x1b[31mred" in summary["reason"]
    for text in (summary["reason"], (folder / "error.txt").read_text()):
        assert_harmless(text)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose records somebody else has changed: reasons, notes, names of nodes and of machines."""
    root = make_records(
        tmp_path_factory.mktemp("hostile"),
        strategies={"student alone": Strategy(), "NST": Strategy(("nst",), "equal")},
        seeds=3,
        epochs=4,
        statuses={("NST", 1): "blocked", ("NST", 2): "failed", ("student alone", 2): "stopped"},
        control=False,
    )
    everything = "".join(HOSTILE.values())

    def change(file: str, **values: Any) -> None:
        for path in root.glob(file):
            path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    for file in ("runs/*4/summary.json", "runs/*5/summary.json", "sweeps/digits/ledger/*"):
        change(file, reason=everything)
    change("runs/*/environment.json", host=everything, device_name=everything)
    change("sweeps/digits/plan.json", notes=[everything, *HOSTILE.values()])
    nodes = [{"node": text, "reasons": [text, everything]} for text in HOSTILE.values()]
    (root / "sweeps" / "digits" / LEFT_OUT).write_text(json.dumps(nodes))
    for path in root.glob("runs/*/paths.jsonl"):
        path.write_text(path.read_text().replace('"nst"', json.dumps(everything)))
    return root


def test_records_that_somebody_else_wrote_are_shown_escaped(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = str(storage)
    for words in (["status", there], ["status", there, "--runs"], ["analyze", there, "--out", str(tmp_path)]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        said = "".join(capsys.readouterr())
        assert_harmless(said)
        if words == ["status", there]:
            for begins in ("failed: NST", "blocked: NST", "left out: node "):
                line = next(line for line in said.splitlines() if line.startswith(begins))
                assert "\\x1b[" in line, begins
    script = Path(__file__).parents[2] / "analysis" / "draws.py"
    monkeypatch.setattr("sys.argv", ["draws.py", there, there, "--out", str(tmp_path / "draws")])
    runpy.run_path(str(script))["main"]()
    assert_harmless("".join(capsys.readouterr()))
    files = [file for file in tmp_path.rglob("*") if file.suffix in (".md", ".csv", ".html", ".svg")]
    assert {file.suffix for file in files} == {".md", ".csv", ".html", ".svg"}
    for file in files:
        written = file.read_bytes().decode()
        assert_harmless(written)
        assert not re.search(r"(?<!\\)<(script|img src=x)", written), file
    assert "\\x1b[2J" in (tmp_path / "report.html").read_text()
    assert "\\x1b[2J" in (tmp_path / "draws" / "draws.md").read_text()
    assert any(
        "\\x1b[2J" in str(text) for text in pq.read_table(tmp_path / "tables" / "trials.parquet")["reason"]
    )


def test_what_a_sweep_says_while_it_runs_is_escaped(tmp_path: Path) -> None:
    """Its panel, its lines, its pause, and what it says at its end."""
    text = "".join(value for value in HOSTILE.values() if "\n" not in value)
    on = queue(Store(str(tmp_path)), storage_timeout=1000.0)
    end(on, taken(on))  # the teacher
    died, job = taken(on), taken(on)
    died.crashes = RETRIES
    on.crashed(died.identity, text)
    assert_harmless((tmp_path / "runs" / died.identity / "error.txt").read_bytes().decode())
    on.end(job.identity, Outcome(Ending.UNFINISHED, text, 0.0, 1, {}))
    until = time.monotonic() + 30
    while on.pause.notice is None:
        assert time.monotonic() < until, "waited in vain"
        on.tick()
    console = Console(file=io.StringIO(), force_terminal=True, width=2000, no_color=True)
    progress = Progress(on, console)
    progress.notice = f"{on.pause.notice}; {text}"
    progress.now = replace(progress.now, waits=(text,), teachers=(text,), looks=(text,), best=text)
    show(progress.line(), console)
    console.print(progress)
    attempts = Attempts(on.sweep, on.ledger.store, False, 0.0, console, None)
    attempts.say(text)
    failures = [
        {"ending": ending, "cell": "a", "seed": 0, "reason": text, "error": text}
        for ending in (Ending.FAILED, Ending.BLOCKED)
    ]
    lost = SweepResult("x", text, total=2, failed=1, blocked=1, failures=failures, storage_lost=text)
    show(replace(lost, left_out=(node_line({"node": text, "reasons": [text]}),)).message(), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("\\x1b[2J") >= 12
    assert_harmless(re.sub(r"\x1b\[[0-9;]*m", "", said))


@pytest.mark.parametrize("words", [["status", "a", "b"], ["no such verb"], ["prune", "--no-such-option"], []])
def test_words_that_the_command_cannot_read_are_escaped(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([word + HOSTILE["colour"] + HOSTILE["from right to left"] for word in words])
    assert end.value.code == 2
    said = "".join(capsys.readouterr())
    assert_harmless(said)
    assert "Usage: " in said


@pytest.mark.parametrize(
    ("error", "says", "code"),
    [
        (RuntimeError, "RuntimeError: ", 1),
        (TrainingFailed, "ray-kd: training failed: ", 1),
        (UserError, "ray-kd: ", 2),
        (EnvironmentFault, "ray-kd: ", 3),
        (typer.BadParameter, "Error: Invalid value: ", 2),
    ],
)
def test_an_error_that_ends_the_command_is_escaped(
    error: type[Exception],
    says: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: Any) -> None:
        raise error(HOSTILE["title of the window"])

    monkeypatch.setattr(run_list, "list_runs", broken)
    with pytest.raises(SystemExit) as end:
        main(["status", "nowhere", "--runs"])
    assert end.value.code == code
    said = capsys.readouterr().err
    assert_harmless(said)
    assert f"{says}\\x1b]0;owned" in said
    assert ("Traceback" in said) == (error is RuntimeError)
