"""Teacher assistants: teachers that other teachers of the file train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_kd.config.errors import UserError
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Store
from ray_kd.training.distill import distill, ensure_teachers
from ray_kd.training.preflight import check_run
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.helpers import TINY
from tests.training.runs import assert_same, lines, stop_after_steps, weights

ALONE = {key: value for key, value in TINY.items() if key != "teacher"}
SHORT = {"epochs": 2, "batch_size": 50}
BIG = TINY["teacher"]
ASSISTANT: dict[str, Any] = {
    "model": {"name": "digits_cnn", "width": 3},
    "dataset": {"labels": 150},
    "views": "shift",
    "paths": ["soft_target", {"name": "nst", "weight": 10}],
    "aggregation": "adaptive",
    "training": SHORT,
    "at_chance": "go_on",
    "seed": 5,
}
FROM_ASSISTANT = [{"name": "soft_target", "teacher": "assistant"}]


def chain(storage: Path, assistant: dict[str, Any] | None = None, **changes: Any) -> RunSpec:
    """A student of an assistant of a teacher."""
    teachers = {"big": BIG, "assistant": {**ASSISTANT, **(assistant or {})}}
    run = {**ALONE, "storage": str(storage), "teachers": teachers, "paths": FROM_ASSISTANT}
    return RunSpec.parse({**run, **changes})


def trained(spec: RunSpec) -> list[str]:
    """The runs that a call trains, in order."""
    names: list[str] = []
    distill(spec, on_epoch=lambda run, _: names.append(run.name))
    return list(dict.fromkeys(names))


def test_one_file_equals_three_runs_by_hand_bit_for_bit(tmp_path: Path) -> None:
    """Each trained by itself, its weights handed on as a file."""
    whole, hand = tmp_path / "whole", tmp_path / "hand"
    spec = chain(whole)
    student = distill(spec)
    assistant = {"identity": spec.teacher_run("assistant").identity()}

    def by_hand(**run: Any) -> tuple[dict[str, Any], str]:
        done = distill(RunSpec.parse({**ALONE, "storage": str(hand), "optimizer": {}, **run}))
        return done, str(hand / "runs" / done["identity"] / "best.safetensors")

    digits = {"name": "digits"}
    _, big_file = by_hand(
        dataset={**digits, "labels": 200}, views="none", student=BIG["model"], training=SHORT
    )
    big = {"model": BIG["model"], "weights": big_file, "at_chance": "go_on"}
    own, own_file = by_hand(
        dataset={**digits, "labels": 150},
        student=ASSISTANT["model"],
        teachers={"big": big},
        **{key: ASSISTANT[key] for key in ("views", "paths", "aggregation", "training", "seed")},
    )
    file = {"model": ASSISTANT["model"], "weights": own_file, "at_chance": "go_on"}
    last, _ = by_hand(teachers={"big": big, "assistant": file}, paths=FROM_ASSISTANT)
    for ours, theirs in ((assistant, own), (student, last)):
        for kind in ("student", "best"):
            assert_same(weights(whole, ours, kind), weights(hand, theirs, kind))
        for name in ("epochs", "paths"):
            assert lines(whole, ours["identity"], name) == lines(hand, theirs["identity"], name)
    assert lines(whole, assistant["identity"], "paths"), "it learnt along its paths"


def test_the_assistant_of_a_file_is_the_run_that_its_own_file_describes(tmp_path: Path) -> None:
    own = {key: value for key, value in ASSISTANT.items() if key not in ("model", "at_chance", "dataset")}
    big = {**BIG, "dataset": {"labels": 200}}
    run = RunSpec.parse(
        {"dataset": {"name": "digits", "labels": 150}, "student": ASSISTANT["model"], "teacher": big, **own}
    )
    ours = chain(tmp_path, teachers={"teacher": big, "assistant": ASSISTANT}).teacher_run("assistant")
    assert ours.identity() == run.identity()
    assert RunSpec.parse(ours.to_dict()).identity() == run.identity()


@pytest.mark.parametrize("after", [2, 5])
def test_an_interrupted_assistant_is_resumed_with_the_same_numbers(tmp_path: Path, after: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = distill(chain(whole))
    spec = chain(parts)
    run = spec.teacher_run("assistant")
    ensure_teachers(run, local_context(run), ProcessCache())
    stop_after_steps(Training(run, local_context(run)), after)
    epochs: list[tuple[str, int]] = []
    summary = distill(spec, on_epoch=lambda spec, record: epochs.append((spec.name, record["epoch"])))
    assert epochs[0] == ("tiny-assistant", 1 + after // 3), "it went on where it was, three steps an epoch"
    for one in (run.identity(), summary["identity"]):
        assert_same(weights(whole, {"identity": one}), weights(parts, {"identity": one}))
        assert lines(whole, one) == lines(parts, one)
    assert summary["best"] == expected["best"]


def test_each_teacher_trains_once_after_its_own_and_for_all_students(tmp_path: Path) -> None:
    assert trained(chain(tmp_path)) == ["tiny-big", "tiny-assistant", "tiny"]
    assert trained(chain(tmp_path, seed=1)) == ["tiny"]
    other = chain(tmp_path, {"seed": 6}, name="other")
    assert trained(other) == ["other-assistant", "other"]


def test_what_a_trained_assistant_learnt_from_is_not_trained_again(tmp_path: Path) -> None:
    """Unless the student learns from it too, or is compared with it: here with the first, the assistant."""
    first = {"assistant": ASSISTANT, "big": BIG}
    spec = chain(tmp_path, teachers=first)
    trained(spec)
    store = Store(tmp_path)
    runs = {name: f"runs/{run.identity()}" for name, run in spec.teacher_runs().items()}
    store.delete_tree(runs["big"])
    assert trained(chain(tmp_path, teachers=first, seed=1)) == ["tiny"]
    store.write(f"{runs['assistant']}/best.safetensors", b"damaged")
    assert trained(chain(tmp_path, teachers=first, seed=2)) == ["tiny-big", "tiny-assistant", "tiny"]


@pytest.mark.parametrize(
    "dataset", [{}, {"labels": 150}, {"validation": 0.1}, {"seed": 3, "test": 0.2}], ids=str
)
def test_a_teacher_is_one_run_for_student_and_assistant(tmp_path: Path, dataset: dict[str, Any]) -> None:
    """Whatever the assistant's own data are: they do not reach its teacher's."""
    spec = chain(tmp_path, {"dataset": dataset})
    assert spec.teacher_run("assistant").teacher_run("big").identity() == spec.teacher_run("big").identity()


def test_identity_says_who_taught_whom(tmp_path: Path) -> None:
    known = {chain(tmp_path).identity()}
    for change in (
        {"paths": ["soft_target"]},
        {"paths": []},
        {"aggregation": "equal"},
        {"targets": "stored"},
        {"seed": 6},
    ):
        found = chain(tmp_path, change).identity()
        assert found not in known
        known.add(found)
    assert (
        chain(tmp_path, teachers={"big": {**BIG, "seed": 1}, "assistant": ASSISTANT}).identity() not in known
    )
    unlearnt = chain(tmp_path, {"paths": [], "aggregation": "fixed"}).teacher_run("assistant")
    zero = [{"name": "nst", "weight": 0}]
    assert chain(tmp_path, {"paths": []}).teacher_run("assistant").identity() == unlearnt.identity()
    assert chain(tmp_path, {"paths": zero}).teacher_run("assistant").essence()["paths"] == []


def test_a_chain_of_three_and_a_student_of_all_of_them(tmp_path: Path) -> None:
    """Densely guided: every network learns from all that are larger."""

    def network(width: int, *names: str) -> dict[str, Any]:
        paths = [{"name": "soft_target", "label": f"from {name}", "teacher": name} for name in names]
        model = {"name": "digits_cnn", "width": width}
        return {"model": model, "paths": paths, "training": SHORT, "at_chance": "go_on"}

    names = ["big", "middle", "small"]
    teachers = {
        "small": network(3, "middle", "big"),  # the file's order is the reader's
        "big": network(5),
        "middle": network(4, "big"),
    }
    paths = [{"name": "soft_target", "label": f"from {name}", "teacher": name} for name in names]
    spec = chain(tmp_path, teachers=teachers, paths=paths)
    assert list(spec.teacher_runs()) == names
    check_run(spec)
    assert trained(spec) == ["tiny-big", "tiny-middle", "tiny-small", "tiny"]
    seen = {row["path"] for row in lines(tmp_path, spec.teacher_run("small").identity(), "paths")}
    assert seen == {"from middle", "from big"}


def test_an_assistant_reads_stored_targets_of_its_teacher(tmp_path: Path) -> None:
    """Those of the same numbers as its live teacher's, so the first step's losses agree."""
    stored = {"source": "stored", "precision": "float32"}
    short = {"training": {"epochs": 1, "batch_size": 150}, "views": "none"}
    losses = {}
    for name, targets in (("live", "live"), ("stored", stored)):
        spec = chain(tmp_path / name, {**short, "targets": targets}, targets=targets)
        distill(spec)
        losses[name] = lines(tmp_path / name, spec.teacher_run("assistant").identity(), "paths")
    assert [row["path"] for row in losses["live"]] == [row["path"] for row in losses["stored"]]
    for live, read in zip(losses["live"], losses["stored"], strict=True):
        assert read["loss"] == pytest.approx(live["loss"], rel=1e-4)
    store = Store(tmp_path / "stored")
    about = [
        store.read_json(f"targets/{one}/store.json") for one in store.names("targets") if one != "mapped"
    ]
    assert {found["teacher"] for found in about} == {"big", "assistant"}


def test_an_assistant_is_checked_before_its_teacher_trains(tmp_path: Path) -> None:
    wrong = chain(tmp_path, {"paths": [{"name": "nst", "stages": [9]}]})
    with pytest.raises(UserError, match=r"teachers\.assistant: path 'nst': stage 9"):
        distill(wrong)
    dense = chain(tmp_path, {"paths": ["class_logit"]})
    with pytest.raises(
        UserError, match=r"teachers\.assistant: paths\.0: path 'class_logit' is for detection"
    ):
        distill(dense)
    parts = {"training": {**SHORT, "accumulate": 2}, "aggregation": "cagrad"}
    with pytest.raises(UserError, match=r"teachers\.assistant: training\.accumulate: 2: aggregator 'cagrad'"):
        distill(chain(tmp_path, parts))
    with pytest.raises(UserError, match=r"teachers\.assistant: training\.batch_size: 50"):
        distill(chain(tmp_path, {"training": {**SHORT, "accumulate": 3}}))
    assert not (tmp_path / "runs").exists()
