"""The examples run as they are shown, with the packages that they are for."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.training.runs import assert_same

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_lightning_module_distils_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Lightning counts the Distiller's steps, its schedulers and checkpoints work, every hook is called."""
    lightning: Any = importlib.import_module("lightning")
    example = load("lightning_module")
    torch.manual_seed(0)
    teacher, first = example.network(8), example.network(4)
    train, validation = example.digits()
    loader = DataLoader(train.dataset, 50)  # in one order, so that two trainings can be compared

    def module() -> Any:
        student = example.network(4)
        student.load_state_dict(first.state_dict())
        return example.Distillation(
            student,
            teacher=teacher,
            paths=["soft_target", "attention_transfer"],
            aggregation="dwa",
            taps=["1", "3"],
            image_shape=(1, 8, 8),
        )

    def fit(begun: str | None) -> Any:
        keep = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        made = module()
        trainer = lightning.Trainer(
            max_epochs=4,
            accelerator="cpu",
            logger=False,
            callbacks=[keep],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(made, loader, validation, ckpt_path=begun)
        assert trainer.global_step == made.distiller.engine.taken == 4 * 8
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)
        return made

    whole = fit(None)
    assert set(whole.state_dict()) == {f"student.{name}" for name in first.state_dict()}
    rows = whole.distiller.last_epoch["paths"]
    assert whole.distiller.last_epoch["epoch"] == 4
    assert {row["weight"] for row in rows} != {1.0}, "dwa compares the last two epochs"
    resumed = fit(str(tmp_path / "epoch=1.ckpt"))
    assert_same(whole.student.state_dict(), resumed.student.state_dict())
    assert resumed.distiller.last_epoch == whole.distiller.last_epoch
