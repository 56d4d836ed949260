"""What a user reads: no None, no nan and no bracket of Python's in a sentence; longer runs are other runs."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ray_kd.analysis import analyze
from ray_kd.analysis.headline import option_text
from ray_kd.analysis.pipeline import Analysis
from ray_kd.cluster.attempts import _forget_damaged_teachers
from ray_kd.cluster.plan import plan_table
from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.config.sweep import SweepSpec
from ray_kd.storage import Store
from ray_kd.training.other_lengths import length_notes
from ray_kd.training.records import find_summary
from ray_kd.trials.ledger import Ledger
from ray_kd.trials.trial_queue import TrialQueue
from tests.analysis.make_records import STRATEGIES, make_records, make_tasks
from tests.helpers import TINY

LEAK = re.compile(r"\bNone\b|\bnan\b|<NA>|\[\]|\{\}|\bTrue\b|\bFalse\b")


def texts(found: Analysis) -> dict[str, str]:
    """All that a reader sees: the answer, the tables, the page without its pictures."""
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found.table)
    page = re.sub(r'src="data:[^"]*"', "", Path(found.files["report.html"]).read_text())
    page = unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL))
    shown = {name: Path(path).read_text() for name, path in found.files.items() if name.endswith(".md")}
    return {"answer": found.headline, "terminal": console.export_text(), "page": page, **shown}


@pytest.mark.parametrize("baseline", [None, "student alone"])
@pytest.mark.parametrize("status", ["finished", "running"])
def test_a_sweep_says_no_none(tmp_path: Path, baseline: str | None, status: str) -> None:
    cells = {name: STRATEGIES[name] for name in ("student alone", "NST")}
    statuses = {(name, seed): status for name in cells for seed in range(2)}
    root = make_records(
        tmp_path, strategies=cells, seeds=2, epochs=4, baseline=baseline, statuses=statuses, control=False
    )
    for path in (root / "runs").glob("*/spec.yaml"):  # a dataset with options that are null and a list
        path.write_text(path.read_text().replace("labels: 200", "labels: null\n  size: [4, 5]\n  flip: true"))
    for name, text in texts(analyze(root, "digits")).items():
        sentences = text.partition("Specification")[0] if name == "page" else text
        assert not LEAK.search(sentences), (name, LEAK.search(sentences))
    if baseline is None and status == "finished":
        assert "names no baseline" in analyze(root, "digits").headline


def test_a_sweep_over_tasks_without_a_baseline_says_so(tmp_path: Path) -> None:
    test = {task: {"a": [0.8, 0.81], "b": [0.82, 0.83]} for task in ("classification", "segmentation")}
    root = make_tasks(tmp_path, test)
    plan = root / "sweeps" / "tasks" / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "baseline": None}))
    found = texts(analyze(root, "tasks"))
    for name, text in found.items():
        sentences = text.partition("Specification")[0] if name == "page" else text
        assert not LEAK.search(sentences), (name, LEAK.search(sentences))
    assert "the sweep names no baseline" in found["table.md"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), ([], "none"), ([1, 2], "1/2"), (True, "yes"), ({}, "none"), (0.5, "0.5")],
)
def test_options_are_said_in_words(value: Any, text: str) -> None:
    assert option_text(value) == text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"control_seeds": [7]}, "none of the sweep's seeds (0, 1)"),
        (
            {"search": {"trials": 2, "space": {"x": {"uniform": [0, 1], "choice": [1]}}}},
            "got choice and uniform",
        ),
    ],
)
def test_refusals_hold_no_python(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        SweepSpec.parse({"name": "x", "base": TINY, "seeds": [0, 1], "cells": {"a": {}}, **changes})
    assert says in str(error.value)


def ended(storage: Path, spec: RunSpec, status: str = "finished") -> None:
    """A run as it lies there once it ended."""
    summary = {"identity": spec.identity(), "status": status, "epochs": spec.training.epochs, "seconds": 1.0}
    figures = {"epoch": 1, "val": {}, "test": {}}
    Store(storage).write_json(
        f"runs/{spec.identity()}/summary.json", {**summary, "last": figures, "best": figures}
    )


def of_length(epochs: int | None, **changes: Any) -> RunSpec:
    training = {"batch_size": 30} if epochs is None else {"batch_size": 30, "epochs": epochs}
    return RunSpec.parse({**TINY, "paths": [], **changes, "training": training})


def test_more_epochs_after_the_end_are_said_to_be_another_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert length_notes([of_length(80)], store) == []
    ended(tmp_path, of_length(40))
    ended(tmp_path, of_length(None))  # 20 epochs, the default, of which the identity says nothing
    ended(tmp_path, of_length(160), "failed")
    ended(tmp_path, of_length(50, seed=1))
    notes = length_notes([of_length(80)], store)
    assert [re.findall(r"after (\d+) epochs", note) for note in notes] == [["20"], ["40"]]
    assert all("with 80 epochs it is another run" in note for note in notes)
    assert length_notes([of_length(40)], store) == [], "it ended, and is found"


def test_the_plan_of_a_sweep_says_it_too(tmp_path: Path) -> None:
    base = {**TINY, "paths": [], "storage": str(tmp_path)}
    sweep = SweepSpec.parse({"name": "x", "base": base, "seeds": [0, 1], "cells": {"a": {}}})
    for trial in sweep.plan().trials:
        ended(tmp_path, trial.spec)
    longer = SweepSpec.parse(
        {**sweep.to_dict(), "base": {**base, "training": {"epochs": 9, "batch_size": 30}}}
    )
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(plan_table(longer))
    assert "2 runs of the same settings ended after 3 epochs" in console.export_text()


def test_a_sweep_trains_a_teacher_again_whose_weights_are_gone(tmp_path: Path) -> None:
    base = {**TINY, "paths": ["logits"], "storage": str(tmp_path)}
    sweep = SweepSpec.parse({"name": "x", "base": base, "seeds": [0], "cells": {"a": {}}})
    store, plan = Store(tmp_path), sweep.plan()
    ended(tmp_path, plan.teachers[0])
    identity = plan.teachers[0].identity()
    ledger = Ledger(store, "x")
    queue = TrialQueue(sweep, plan, ledger)
    assert queue.jobs[identity].state == "done"
    assert _forget_damaged_teachers(queue, store)
    assert find_summary(store, identity) is None
    again = TrialQueue(sweep, sweep.plan(), ledger)
    assert again.jobs[identity].state == "waiting"
    assert not _forget_damaged_teachers(again, store)
