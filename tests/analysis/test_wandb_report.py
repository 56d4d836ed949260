"""The W&B report: composed without key or network, refused clearly where it cannot be saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_kd.analysis.comparison import compare_cells
from ray_kd.analysis.comparison_table import markdown
from ray_kd.analysis.headline import headline
from ray_kd.analysis.reader import Folder
from ray_kd.analysis.records import Records, read_records
from ray_kd.analysis.wandb_report import compose, save_report
from ray_kd.config.errors import UserError
from ray_kd.tracking.wandb import cell_of, has_key
from tests.analysis.make_records import STRATEGIES, make_records

wr: Any = pytest.importorskip("wandb_workspaces.reports.v2")


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    cells = {name: STRATEGIES[name] for name in ("student alone", "NST")}
    return read_records(make_records(tmp_path / "results", strategies=cells, seeds=3, epochs=4), "digits")


def composed(records: Records, root: Path, tracking: str) -> Any:
    (root / "sweeps" / "digits" / "sweep.yaml").write_text(
        f"name: digits\nbase: {{tracking: {{wandb: {tracking}, project: kd-study}}}}\n"
    )
    return compose(records, compare_cells(records), Folder.open(root), "someone")


def test_it_is_composed_offline(records: Records, tmp_path: Path) -> None:
    report, comparison = composed(records, tmp_path / "results", "offline"), compare_cells(records)
    assert (report.project, report.entity) == ("kd-study", "someone")
    assert report.description == headline(comparison)
    assert markdown(comparison) in [b.text for b in report.blocks if isinstance(b, wr.MarkdownBlock)]
    (grid,) = (block for block in report.blocks if isinstance(block, wr.PanelGrid))
    (runs,) = grid.runsets
    assert (runs.entity, runs.project) == ("someone", "kd-study")
    drawn = {str(y) for panel in grid.panels if isinstance(panel, wr.LinePlot) for y in panel.y}
    weights = {f"weight/{path}" for path in records.paths["path"].unique()}
    assert weights
    assert {"val/top1", "train/loss", *weights} <= drawn


def test_no_curves_where_the_trials_were_not_tracked(records: Records, tmp_path: Path) -> None:
    report = composed(records, tmp_path / "results", "off")
    assert not [block for block in report.blocks if isinstance(block, wr.PanelGrid)]


def test_a_name_that_an_edited_plan_has_is_escaped(tmp_path: Path) -> None:
    cells = {"student alone": STRATEGIES["student alone"], "N\x1b[2JS\u202eT": STRATEGIES["NST"]}
    root = make_records(tmp_path, strategies=cells, seeds=3, epochs=4)
    report = composed(read_records(root, "digits"), root, "offline")
    texts = [report.title, report.description, *(getattr(block, "text", "") for block in report.blocks)]
    assert any(r"\x1b\[2JS" in text or r"\x1b[2JS" in text for text in texts)
    assert not [text for text in texts if "\x1b" in text or "\u202e" in text]


def test_without_a_key_it_says_what_is_needed(records: Records, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        save_report(records, compare_cells(records), Folder.open(tmp_path / "results"))


def test_a_stored_key_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    file.write_text("machine other.example login user password x\n")
    file.chmod(0o600)
    assert not has_key()
    file.write_text("machine api.wandb.ai login user password x\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example/")
    assert not has_key()


def test_trials_are_grouped_by_their_cell() -> None:
    assert cell_of("digits: adaptive, seed 1 of, seed 12", "digits") == "adaptive, seed 1 of"
    assert cell_of("mine, seed 3", None) == "mine, seed 3"
