"""Nothing in a file is run: every bait below runs under Python's own pickle, and does nothing here."""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_kd.config.errors import UserError
from ray_kd.models import create_model
from ray_kd.models.pickles import DamagedError, read_pickle
from ray_kd.models.torch_files import _calls, read_torch
from tests.models.baits import COMMANDS, METHODS, RAN, by_reduce, call, named, program, text


@pytest.fixture
def _extension() -> Any:
    copyreg.add_extension("posix", "system", 240)
    yield
    copyreg.remove_extension("posix", "system", 240)
    copyreg.clear_extension_cache()


FORMS = ("bare", "archive", "before archives")


def as_file(pickled: bytes, form: str) -> bytes:
    """A file of PyTorch's whose object is what a pickle describes."""
    if form == "bare":
        return pickled
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer, _use_new_zipfile_serialization=form == "archive")
    if form == "archive":
        changed = io.BytesIO()
        with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(changed, "w") as new:
            for name in old.namelist():
                new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
        return changed.getvalue()
    buffer.seek(0)
    for _ in range(3):
        read_pickle(buffer)
    begin = buffer.tell()
    return buffer.getvalue()[:begin] + pickled + pickle.dumps([])


def take(pickled: bytes) -> None:
    """Take a bait as Python's own pickle does, which may find afterwards that it is no file of PyTorch's."""
    with suppress(RuntimeError):
        result = pickle.loads(pickled)  # noqa: S301 (this is what the baits are for)
        if hasattr(result, "close"):
            result.close()  # of os.popen: waits for the command


def read(data: bytes) -> None:
    """Read a file to its end, or to where it is refused."""
    with suppress(DamagedError):
        read_torch(data)


@pytest.mark.usefixtures("_extension")
@pytest.mark.parametrize("bait", COMMANDS)
def test_no_command_is_run(bait: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    pickled = COMMANDS[bait](f"echo > {marker}")
    take(pickled)
    assert marker.exists(), "the bait is dead: Python's pickle does not run it either"
    marker.unlink()
    for form in FORMS:
        read(as_file(pickled, form))
        assert not marker.exists(), form


@pytest.mark.parametrize("how", ["numpy.load", "torch.hub.load", "runpy.run_path"])
def test_no_other_file_is_opened_and_run(how: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    if how == "numpy.load":
        file = tmp_path / "inner.npy"
        file.write_bytes(by_reduce(2)(f"echo > {marker}"))
        pickled = program(call(named("numpy", "load"), text(str(file)), b"N", b"\x88"))
    elif how == "torch.hub.load":
        (tmp_path / "hubconf.py").write_text(f"def entry():\n    open({str(marker)!r}, 'w').close()\n")
        # hub.load(folder, entry, source=local) takes its words by name alone: a partial gives them.
        words = b"}" + text("source") + text("local") + b"s"
        partial = named("functools", "partial") + b"(" + named("torch.hub", "load") + b"t\x81"
        state = b"(" + named("torch.hub", "load") + b")" + words + b"Ntb"
        pickled = program(call(partial + state, text(str(tmp_path)), text("entry")))
    else:
        (tmp_path / "script.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
        pickled = program(call(named("runpy", "run_path"), text(str(tmp_path / "script.py"))))
    take(pickled)
    assert marker.exists(), "the bait is dead"
    marker.unlink()
    for form in FORMS:
        read(as_file(pickled, form))
        assert not marker.exists(), form


def test_no_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_by_a_pickle.py").write_text("from tests.models.baits import RAN\nRAN.append(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    pickled = program(named("imported_by_a_pickle", "RAN"))
    RAN.clear()
    for form in FORMS:
        read(as_file(pickled, form))
    assert not RAN
    assert "imported_by_a_pickle" not in sys.modules
    take(pickled)
    assert RAN, "the bait is dead"
    sys.modules.pop("imported_by_a_pickle")


@pytest.mark.parametrize("code", METHODS)
def test_no_method_of_a_class_is_called(code: str) -> None:
    pickled = program(METHODS[code])
    RAN.clear()
    take(pickled)
    assert RAN, "the bait is dead"
    RAN.clear()
    for form in FORMS:
        read(as_file(pickled, form))
    assert not RAN


def test_the_names_that_may_be_called_are_these() -> None:
    """Whoever adds one says here that it can do nothing but make a value."""
    both = {"dict", "list", "set", "frozenset"}
    expected = {(module, name) for module in ("builtins", "__builtin__") for name in both}
    expected |= {("collections", name) for name in ("OrderedDict", "Counter", "defaultdict")}
    expected |= {("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor"), ("_codecs", "encode")}
    tensors = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
    tensors |= {"_rebuild_parameter", "_rebuild_parameter_with_state"}
    expected |= {("torch._utils", name) for name in tensors} | {("torch", "Size")}
    expected |= {("torch._tensor", "_rebuild_from_type_v2"), ("torch.storage", "_load_from_bytes")}
    assert set(_calls()) == expected
    ours = {"ray_kd.models.pickles", "ray_kd.models.torch_files", "builtins"}
    functions = [getattr(called, "func", called) for called in _calls().values()]
    assert {function.__module__ for function in functions} == ours
    assert {function for function in functions if function.__module__ == "builtins"} == {list, tuple}


def test_functions_that_are_called_cannot_be_changed() -> None:
    function = torch._utils._rebuild_tensor_v2
    pickled = program(named("torch._utils", "_rebuild_tensor_v2") + b"}" + text("spoilt") + b"Nsb")
    for form in FORMS:
        read(as_file(pickled, form))
    assert not hasattr(function, "spoilt")
    take(pickled)
    assert hasattr(function, "spoilt"), "the bait is dead"
    del function.spoilt  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_they_are(protocol: int) -> None:
    inner = (1, -1, 1 << 80, 300, 70000, 1.5, True, None, "text", "Ünï", b"bytes\xff", {3: "x"}, [[], {}, ()])
    value = {"a": inner, "b": {1, 2}, "c": frozenset((3,)), "d": bytearray(b"x")}
    found = read_pickle(io.BytesIO(pickle.dumps(value, protocol=protocol)))
    assert found["a"] == inner
    assert (found["b"], found["c"]) == (value["b"], value["c"])


def test_what_holds_itself_is_read() -> None:
    value: list[Any] = []
    value.append({"again": value})
    found = read_pickle(io.BytesIO(pickle.dumps(value)))
    assert found[0]["again"] is found


@pytest.mark.parametrize(
    ("pickled", "says"),
    [
        (b"", "breaks off"),
        (b"\x80\x04", "breaks off"),
        (b"\x80\x04.", "makes no sense"),
        (b"\x80\x04N", "breaks off"),
        (b"\xff\xff", "makes no sense"),
        (b"\x80\x040.", "makes no sense"),
        (b"\x80\x04R.", "makes no sense"),
        (b"\x80\x04e.", "makes no sense"),
        (b"\x80\x04N(Ne.", "no attribute 'append'"),
        (b"\x80\x04]NNs.", "list indices"),
        (b"\x80\x04NN\x93.", "STACK_GLOBAL"),
        (b"\x80\x04h\x07.", "makes no sense"),
        (b"\x80\x05\x97.", "out-of-band"),
        (b"Psomething\n.", "kept elsewhere"),
        (b"\x80\x04NQ.", "kept elsewhere"),
        (b"\x80\x04X\xff\xff\xff\x7fab.", "breaks off"),
        (b"\x80\x04}}b(NNNu.", "makes no sense"),
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "breaks off"),  # claims a terabyte
        (b"\x80\x04Nr\xff\xff\xff\xff", "breaks off"),  # a place for so many memorised values
    ],
)
def test_a_pickle_that_makes_no_sense_is_refused(pickled: bytes, says: str) -> None:
    with pytest.raises(DamagedError, match=says):
        read_pickle(io.BytesIO(pickled))


def tensor(size: bytes, stride: bytes, offset: int = 0, count: int = 4) -> bytes:
    """A tensor cut from an archive's only storage of four numbers; sizes and strides as code."""
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu")
    storage += b"M" + count.to_bytes(2, "little") + b"tQ"
    rest = [b"M" + offset.to_bytes(2, "little"), size, stride, b"\x89", b"N"]
    return program(call(named("torch._utils", "_rebuild_tensor_v2"), storage, *rest))


@pytest.mark.parametrize(
    ("pickled", "says"),
    [
        (tensor(b"K\x05\x85", b"K\x01\x85"), "beyond its values"),
        (tensor(b"K\x02\x85", b"K\x01\x85", offset=3), "beyond its values"),
        (tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85", offset=3), "beyond its values"),
        (tensor(b"K\x02\x85", b")"), "beyond its values"),
        (tensor(b"G?\xf0\0\0\0\0\0\0\x85", b"K\x01\x85"), "beyond its values"),
        (tensor(b"\x8a\x08\0\0\0\0\0\0\0\x40\x85", b"K\0\x85"), "beyond its values"),
        (tensor(b"K\x04\x85", b"K\x01\x85", count=9), "holds 16 bytes, expected 36"),
    ],
)
def test_a_tensor_reaches_no_further_than_its_values(pickled: bytes, says: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", torch.arange(4.0).numpy().tobytes())
        archive.writestr("archive/version", "3")
    with pytest.raises(DamagedError, match=says):
        read_torch(buffer.getvalue())


def test_a_file_that_would_run_something_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(as_file(by_reduce(2)(f"echo > {tmp_path / 'ran'}"), "archive"))
    with pytest.raises(
        UserError, match=r"evil\.pt: no weights in it.*model \(an object of 'posix\.system'\)"
    ):
        create_model("digits_cnn", classes=10, channels=1, weights=str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()
