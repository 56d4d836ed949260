"""Files whole or not at all, on a disk and on another pyarrow filesystem."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ray_kd.config.errors import UserError
from ray_kd.storage import Store


def test_round_trip_names_delete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("a/b/c.bin", b"\x00\x01")
    store.write_json("a/d.json", {"x": 1})
    assert store.read("a/b/c.bin") == b"\x00\x01"
    assert store.read_json("a/d.json") == {"x": 1}
    assert store.names("a") == ["b", "d.json"]
    assert store.names("nothing") == []
    assert store.exists("a/b")
    assert not store.exists("a/x")
    store.delete("a/d.json")
    store.delete("a/d.json")
    assert store.names("a") == ["b"]
    with pytest.raises(FileNotFoundError):
        store.read("a/d.json")
    assert pickle.loads(pickle.dumps(store)).read("a/b/c.bin") == b"\x00\x01"  # noqa: S301
    assert store.child("a").read("b/c.bin") == b"\x00\x01"


def test_append_makes_lines(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for epoch in (1, 2):
        store.append("runs/x/epochs.jsonl", {"epoch": epoch})
    assert store.read("runs/x/epochs.jsonl") == b'{"epoch": 1}\n{"epoch": 2}\n'


def test_exclusive_creation(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.create_exclusive("locks/x", b"one")
    assert not store.create_exclusive("locks/x", b"two")
    assert store.read("locks/x") == b"one"


def test_a_path_below_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file")
    for write in (lambda: store.write("x", b""), lambda: store.append("x/y", {})):
        with pytest.raises(UserError, match="A file lies where a folder is needed"):
            write()


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"torn":')
    with pytest.raises(UserError, match=r"x\.json is damaged"):
        Store(tmp_path).read_json("x.json")


def test_a_uri_nobody_knows() -> None:
    with pytest.raises(UserError, match="storage: unknown kind of URI 'nosuch://'"):
        Store("nosuch://bucket")


FILL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from ray_kd.config.errors import UserError
from ray_kd.storage import Store
store = Store(sys.argv[1])
try:
    store.write("big", b"x" * 5000)
except UserError as error:
    print(error)
"""


FULL = """
import resource, sys
from ray_kd.config.faults import EnvironmentFault
from ray_kd.storage import Store
store = Store(sys.argv[1])
store.append("lines", {"epoch": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
for what, write in {
    "lock": lambda: store.create_exclusive("lock", b"x" * 50),
    "lines": lambda: store.append("lines", {"epoch": 2}),
}.items():
    try:
        write()
    except EnvironmentFault as error:
        print(what, error)
"""


def test_a_full_disk_leaves_no_empty_lock_and_no_half_line(tmp_path: Path) -> None:
    """Of both the first bytes could be written."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["lock", "lines"], done.stdout
    assert os.listdir(tmp_path) == ["lines"]
    assert (tmp_path / "lines").read_text() == '{"epoch": 1}\n'


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk: the write fails in the middle."""
    store = Store(tmp_path)
    store.write("big", b"old")
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "ulimit -f" in done.stdout
    assert store.read("big") == b"old"
    assert os.listdir(tmp_path) == ["big"], "no temporary file is left behind"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """Kill -9 a process that rewrites one file without end: what is there is always whole."""
    code = (
        "import sys; from ray_kd.storage import Store; s = Store(sys.argv[1]); i = 0\n"
        "while True:\n    i += 1; s.write('f', bytes([i % 256]) * 200_000)\n    print(i, flush=True)"
    )
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        data = Store(tmp_path).read("f")
        assert len(data) == 200_000
        assert len(set(data)) == 1
