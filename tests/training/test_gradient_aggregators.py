"""What must hold, always, for the aggregators that need more than loss values or keep a state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.errors import TrainingFailed, UserError
from ray_kd.models import create_model
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.helpers import shifted, tiny
from tests.training.runs import assert_same, bare_digits, lines, stop_after_steps, weights

# soft_target, a staged path, and one with adapters
PATHS = ["soft_target", {"name": "attention_transfer", "weight": 10}, "nst"]
UNWEIGHTED = ["soft_target", "attention_transfer", "nst"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage that holds the teacher of all runs here."""
    storage = tmp_path_factory.mktemp("storage")
    spec = tiny(storage, paths=PATHS)
    ensure_teachers(spec, local_context(spec), ProcessCache())
    return storage


@pytest.mark.parametrize("aggregation", ["equal_norm", "mgda", "dot", "dbmtl", "graddrop", "ae_kd", "famo"])
def test_all_weights_0_is_plain_training_bit_for_bit(tmp_path: Path, aggregation: str) -> None:
    paths = [{"name": name, "weight": 0} for name in ("soft_target", "nst")]
    spec = tiny(tmp_path, paths=paths, aggregation=aggregation)
    assert_same(weights(tmp_path, distill(spec)), bare_digits(spec))


@pytest.mark.parametrize(
    "aggregation",
    [
        {"name": "equal_norm", "every": 3},
        {"name": "gradnorm", "granularity": "layer"},
        {"name": "dbmtl", "task": "outside"},
        "famo",
        "dot",
        {"name": "gradvac", "every": 2},
        "olaux",
        "pcgrad",
        "cov",
        "dwa",
        "random",
    ],
    ids=str,
)
def test_resume_is_uninterrupted_bit_for_bit(taught: Path, tmp_path: Path, aggregation: Any) -> None:
    """Stopped in mid-epoch, between two measurements; going on gives the same weights and records."""
    whole = tiny(taught, paths=UNWEIGHTED, aggregation=aggregation, optimizer={"lr": 0.02, "clip": 1.0})
    expected = distill(whole)
    spec = tiny(tmp_path, paths=UNWEIGHTED, aggregation=aggregation, optimizer={"lr": 0.02, "clip": 1.0})
    ensure_teachers(spec, local_context(spec), ProcessCache())
    training = Training(spec, local_context(spec))
    stop_after_steps(training, 6)
    summary = distill(spec)
    assert_same(weights(taught, expected), weights(tmp_path, summary))
    for name in ("epochs", "paths"):
        assert lines(taught, expected["identity"], name) == lines(tmp_path, summary["identity"], name)


@pytest.mark.parametrize("aggregation", ["mgda", "dot", "graddrop"])
def test_same_spec_same_numbers(taught: Path, tmp_path: Path, aggregation: str) -> None:
    options: dict[str, Any] = {"paths": PATHS, "aggregation": aggregation}
    first = distill(tiny(taught, **options))
    assert_same(weights(taught, first), weights(tmp_path, distill(tiny(tmp_path, **options))))


def test_records_say_what_was_measured(taught: Path) -> None:
    """Gradient norms and cosines where a step measured, nothing where the method has none."""
    for aggregation, measures in (
        ({"name": "equal_norm", "every": 4}, True),
        ("gcs", True),
        ("dot", False),
        ("equal", False),
    ):
        rows = lines(
            taught, distill(tiny(taught, paths=UNWEIGHTED, aggregation=aggregation))["identity"], "paths"
        )
        assert {row["path"] for row in rows} == set(UNWEIGHTED)
        for row in rows:
            assert (row["gradient_norm"] is not None) == measures
            assert not measures or (row["gradient_norm"] > 0 and -1 <= row["cosine"] <= 1)


@pytest.mark.outcome
@pytest.mark.parametrize("aggregation", ["fixed", "equal_norm", "dot"])
def test_half_precision_moves_the_student_as_full(taught: Path, aggregation: str, seed_shift: int) -> None:
    """Under a GradScaler: a step that overflows is skipped, gradients are clipped at their true size."""
    moves = []
    for precision in ("float16", "float32"):
        spec = tiny(
            taught,
            paths=["soft_target", "attention_transfer"],
            aggregation=aggregation,
            optimizer={"lr": 0.05, "clip": 0.5},
            training={"epochs": 5, "batch_size": 30, "precision": precision},
        )
        spec = shifted(spec, seed_shift)
        begin = create_model(spec.student, classes=10, channels=1, seed=spec.seed).state_dict()
        end = weights(taught, distill(spec))
        names = [name for name in end if end[name].dim() > 1]
        moves.append(torch.cat([(end[name] - begin[name]).flatten() for name in names]))
    half, full = moves
    assert half.norm().item() == pytest.approx(full.norm().item(), rel=0.3)
    assert torch.cosine_similarity(half, full, dim=0) > 0.9


def test_dot_and_adam_do_not_go_together(taught: Path) -> None:
    with pytest.raises(UserError, match=r"'dot' is a form of SGD.*expected sgd, got adamw"):
        distill(tiny(taught, paths=PATHS, aggregation="dot", optimizer={"name": "adamw", "lr": 0.01}))


def test_ae_kd_names_a_path_off_the_logits(taught: Path) -> None:
    with pytest.raises(UserError, match=r"'ae_kd' looks at .* got 'nst', which compares features"):
        distill(tiny(taught, paths=["soft_target", "nst"], aggregation="ae_kd"))
    summary = distill(tiny(taught, paths=["soft_target", "logits", "dist"], aggregation="ae_kd"))
    rows = lines(taught, summary["identity"], "paths")
    assert sum(row["weight"] for row in rows if row["epoch"] == 1) == pytest.approx(1, abs=1e-3)


@pytest.mark.outcome
def test_a_loss_that_is_not_finite_ends_the_run_by_name(taught: Path, seed_shift: int) -> None:
    """With gradients measured too, and with a method that would weigh what is broken by 0."""
    for aggregation in ("mgda", "gcs", "graddrop"):
        spec = shifted(tiny(taught, paths=PATHS, aggregation=aggregation, optimizer={"lr": 1e30}), seed_shift)
        with pytest.raises(TrainingFailed, match=r"the loss of path '[a-z_]+'.* NaN or infinite in epoch 1"):
            distill(spec)


def test_the_callers_generator_is_left_alone(taught: Path) -> None:
    state = torch.get_rng_state()
    distill(tiny(taught, paths=UNWEIGHTED, aggregation={"name": "pcgrad", "k": 0.5}))
    assert torch.equal(state, torch.get_rng_state()), "torchjd's draws come from a stream of the run's own"
