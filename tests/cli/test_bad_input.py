"""What users get wrong: one clear message, exit code 2, no traceback, nothing half written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ray_kd.config.spec import RunSpec
from ray_kd.training.distill import ensure_teachers
from ray_kd.training.process_cache import ProcessCache
from ray_kd.training.run import Training
from ray_kd.training.run_context import local_context
from tests.cli.conftest import Cli, Said

ROOT = Path(__file__).parents[2]


def refused(said: Said, *says: str) -> None:
    """One message for the user, and only that."""
    assert said.code == 2, said.err
    assert said.err.startswith("ray-kd: ")
    assert said.err.count("ray-kd: ") == 1
    assert "Traceback" not in said.err
    assert said.out == ""
    for word in says:
        assert word in said.err, f"{word!r} not in {said.err!r}"


RUN_MISTAKES = [
    (["paths=[soft_targt]"], ["paths.0", "'soft_targt'", "'soft_target'", "Known"]),
    (["aggregation=adaptiv"], ["aggregation", "'adaptiv'", "'adaptive'"]),
    (["dataset=digit"], ["dataset", "'digit'", "'digits'"]),
    (["student=digit_cnn"], ["student", "'digit_cnn'", "'digits_cnn'"]),
    (["optimizer.lerning_rate=1"], ["'optimizer.lerning_rate'", "lr"]),
    (["traning.epochs=1"], ["'traning'", "'training'"]),
    (["paths.0.weight=-1"], ["'weight'", ">= 0", "-1"]),
    (["paths.0.weight=.nan"], ["'weight'", "finite", "nan"]),
    (["paths.1.stages=[7]"], ["path 'nst'", "stage 7 does not exist", "0 to 3"]),
    (["paths.1.adapter=null"], ["nst", "channels"]),
    (["aggregation=equal", "paths.0.weight=2"], ["'equal'", "no static weights"]),
    (["resources.workers=0"], ["'resources.workers'", "greater than or equal to 1", "0"]),
    (["--workers", "7"], ["training.batch_size", "30", "7 workers"]),
]


@pytest.mark.parametrize(("changes", "says"), RUN_MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_run_with_a_mistake_trains_nothing(
    cli: Cli, run_file: Path, tmp_path: Path, changes: list[str], says: list[str]
) -> None:
    storage = tmp_path / "results"
    refused(cli("train", run_file, *changes, "--storage", storage), *says)
    assert not storage.exists(), "not even the teacher"


SWEEP_MISTAKES = [
    (["seeds=[]"], ["seeds", "no trials"]),
    (["cells={}"], ["cells", "no trials"]),
    (["axes={optimizer.lr: []}"], ["optimizer.lr", "no trials"]),
    (["seed=[0]"], ["'seed'", "'seeds'"]),
    (["baseline=alon"], ["baseline", "'alon'", "'alone'"]),
    (["base.dataset=digit"], ["dataset", "'digit'", "'digits'"]),
    (["cells.taught={paths: [soft_targets]}"], ["taught", "'soft_targets'", "'soft_target'"]),
    (["cells.taught={paths: [{name: hint, stages: [9]}]}"], ["taught", "stage 9 does not exist"]),
    (["scheduler=pbt"], ["scheduler", "'pbt'", "no fixed identity", "asha"]),
    (["scheduler=asya"], ["scheduler", "'asya'", "'asha'"]),
]


@pytest.mark.parametrize("plan", [["--plan"], []], ids=["plan", "run"])
@pytest.mark.parametrize(("changes", "says"), SWEEP_MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_sweep_with_a_mistake_starts_nothing(
    cli: Cli, sweep_file: Path, tmp_path: Path, changes: list[str], says: list[str], plan: list[str]
) -> None:
    storage = tmp_path / "results"
    refused(cli("sweep", sweep_file, *changes, *plan, "--storage", storage), *says)
    assert not storage.exists()


@pytest.mark.parametrize(("verb", "key"), [("train", "tracking.wandb"), ("sweep", "base.tracking.wandb")])
def test_wandb_is_asked_for_and_not_there(
    cli: Cli, sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, key: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # Python's own way to say: not to be found
    file, storage = tmp_path / ("run.yaml" if verb == "train" else "sweep.yaml"), tmp_path / "results"
    said = cli(verb, file, f"{key}=offline", "--storage", storage)
    refused(said, "tracking.wandb", "'offline'", "pip install 'ray-kd[wandb]'", "tracking.wandb=off")
    assert not storage.exists()


def test_files_that_are_no_spec(cli: Cli, tmp_path: Path) -> None:
    refused(cli("train", tmp_path / "none.yaml"), "none.yaml", "No such file")
    refused(cli("sweep", tmp_path), "cannot read", "Is a directory")
    (tmp_path / "list.yaml").write_text("- 1\n")
    refused(cli("teacher", tmp_path / "list.yaml"), "expected a mapping")
    (tmp_path / "broken.yaml").write_text("name: [1\n")
    refused(cli("sweep", tmp_path / "broken.yaml", "--plan"), "not valid YAML", "line 2")


@pytest.mark.parametrize("verb", ["status", "analyze", "report"])
def test_no_records_there(cli: Cli, tmp_path: Path, verb: str) -> None:
    refused(cli(verb, tmp_path / "none"), "no sweep at", "plan.json")
    assert not (tmp_path / "none").exists()


def test_an_output_path_below_a_file(cli: Cli, run_file: Path, sweep_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    below, says = tmp_path / "file" / "below", "A file lies where a folder is needed"
    refused(cli("train", run_file, "--storage", below), says, str(below))
    refused(cli("teacher", run_file, "--storage", below), says, str(below))
    refused(cli("sweep", sweep_file, "--storage", below), says, str(below))
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_damaged_checkpoint(
    cli: Cli, run_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = tmp_path / "results"
    spec = RunSpec.load(run_file, f"storage={storage}")
    ensure_teachers(spec, local_context(spec), ProcessCache())
    epochs = Training(spec, local_context(spec)).epochs()
    next(epochs), next(epochs)
    epochs.close()  # type: ignore[attr-defined]
    state = storage / "runs" / spec.identity() / "checkpoints" / "last.pt"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    said = cli("train", run_file, "--storage", storage)
    assert said.code == 0
    (told,) = [text for text in caplog.messages if f"{state} is damaged" in text]
    assert "resumes from the state before it" in told
    assert "epoch 3/3" in said.err


def limited(command: list[str], megabytes: float) -> Said:
    """Run a command that may not write files larger than this: what a full disk looks like."""
    size = int(megabytes * 2**20)
    done = subprocess.run(
        [sys.executable, "-m", "ray_kd", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def test_a_full_disk(cli: Cli, run_file: Path, tmp_path: Path) -> None:
    storage = tmp_path / "results"
    said = limited(["teacher", str(run_file), "--storage", str(storage)], 0.004)
    assert said.code == 3
    message = [line for line in said.err.splitlines() if "epoch" not in line]
    assert len(message) == 1, said.err
    assert message[0].startswith("ray-kd: cannot write")
    assert "File too large" in message[0]
    assert message[0].endswith("Unfinished: the same command resumes from here.")
    (folder,) = (storage / "runs").iterdir()
    left = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert not {name for name in left if ".writing" in name or name.endswith((".pt", ".safetensors"))}
    assert "summary.json" not in left, "it did not end: there is space to be made, and the same command"
    said = cli("train", run_file, "--storage", storage)
    assert said.code == 0, said.err


@pytest.mark.ray
@pytest.mark.usefixtures("two_cpus")
def test_a_trial_that_no_machine_could_hold(cli: Cli, sweep_file: Path, tmp_path: Path) -> None:
    """It is said at once, instead of waiting for a machine that never comes."""
    storage = tmp_path / "results"
    said = cli("sweep", sweep_file, "resources.cpus=999", "--storage", storage)
    refused(said, "no slot could ever hold", "999 CPUs", "'resources'", "--address")
    assert [file for file in storage.rglob("*") if file.is_file()] == []
