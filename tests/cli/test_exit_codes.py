"""The exit code says how it ended, and the last line what to type next."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest

from ray_kd.cli.main import VERBS
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Store
from ray_kd.targets.layout import TargetStore
from ray_kd.targets.shards import read_shard, write_shard
from ray_kd.training.precompute import precompute
from ray_kd.training.run_context import local_context
from tests.cli.conftest import Cli
from tests.cluster.faults import full_disk
from tests.helpers import tiny


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("two_cpus")
def test_a_sweep_whose_trials_all_fail_says_so(cli: Cli, sweep_file: Path, tmp_path: Path) -> None:
    """The teacher fails too: whom it would have taught is blocked."""
    storage = tmp_path / "results"
    changes = ("cells.alone.teacher=null", "base.optimizer.lr=1e25", "base.teacher.optimizer.lr=1e25")
    said = cli("sweep", sweep_file, *changes, "--storage", storage)
    assert said.code == 1, said.err
    assert "small: 0 of 4 trials finished, 2 failed, 2 blocked" in said.err
    assert "  blocked: taught, seed 0 and 1 more: its teacher (" in said.err
    assert "failed: the task loss became NaN" in said.err
    last = said.out.strip().splitlines()[-1]
    assert last.startswith("4 of 4 trials failed or have no teacher. Fix the reasons above, then run: ")
    command = shlex.split(last.partition("then run: ")[2])
    assert command[:2] == ["ray-kd", "sweep"]
    assert command[2:] == [str(sweep_file), *changes, f"--storage={storage}", "--retry-failed"]

    again = cli(*command[1:-1])
    assert again.code == 1, "it is not forgotten"
    assert "started now" not in again.err

    shown = cli("status", storage)
    assert shown.code == 0
    assert "blocked: taught, seed 1: its teacher (" in shown.out


def test_a_run_on_a_full_disk_is_unfinished(cli: Cli, run_file: Path, tmp_path: Path) -> None:
    command = ("train", run_file, "paths=[]", "teacher=null", "--storage", tmp_path / "results")
    (tmp_path / "results").mkdir()
    with full_disk():
        said = cli(*command)
    assert said.code == 3
    assert said.err.startswith(f"ray-kd: cannot write {tmp_path}/results/runs/")
    assert said.err.strip().endswith("Unfinished: the same command resumes from here.")
    spec = RunSpec.load(run_file, "paths=[]", "teacher=null")
    folder = tmp_path / "results" / "runs" / spec.identity()
    assert not folder.exists() or not list(folder.iterdir()), "not even an empty lock"
    assert cli(*command).code == 0


def test_the_table_of_exit_codes_has_every_verb() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \|", page.partition("Of these, the verbs use:")[2], re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(name for name, _ in VERBS)


def test_verify_fails_where_targets_differ(cli: Cli, tmp_path: Path) -> None:
    teacher = {"model": {"name": "digits_cnn", "width": 4}, "weights": "initial"}
    spec = tiny(tmp_path, teacher=teacher, paths=["soft_target"], targets="stored")
    context = local_context(spec)
    precompute([spec], context)
    (folder,) = (path.parent for path in (tmp_path / "targets").glob("*/store.json"))
    assert cli("verify", folder).code == 0
    found = TargetStore.open(context.store, folder.name)
    group = next(iter(found.groups()))
    shard = group.shards(1)[0]
    ids, rows = read_shard(found, group, shard)
    write_shard(found, group, shard, ids, {name: values.flip(0) for name, values in rows.items()})
    said = cli("verify", folder)
    assert said.code == 1
    assert "FAILED" in said.out
    assert "stored and live targets differ by more than the stored precision allows" in said.err


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (EOFError, 2)])
def test_a_question_without_an_answer(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException], code: int
) -> None:
    """Ctrl-C at the question, and no terminal to ask on."""

    class Terminal(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:
            raise raised

    monkeypatch.setattr("sys.stdin", Terminal())
    store = Store(tmp_path)
    store.write_json(
        "runs/abc/summary.json", {"status": "finished", "last": {"test": {}}, "best": {"test": {}}}
    )
    store.write("runs/abc/checkpoints/last.pt", b"state")
    assert cli("prune", tmp_path).code == code
    assert store.exists("runs/abc/checkpoints/last.pt")


def test_a_time_that_is_none(cli: Cli, sweep_file: Path) -> None:
    said = cli("sweep", sweep_file, "--storage-timeout", "soon")
    assert said.code == 2
    assert said.err.startswith("ray-kd: --storage-timeout: expected a span of time such as ")


def test_a_user_s_mistake_stays_one(cli: Cli, run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = cli("train", run_file, "paths=[]", "teacher=null", "--storage", tmp_path / "file")
    assert said.code == 2
    assert "A file lies where a folder is needed" in said.err
