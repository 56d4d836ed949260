"""What ``torch.save`` wrote, read without running anything in it; tensors are made of their bytes alone.

``torch.load(weights_only=True)`` reads the same files, but refuses whole files for what lies beside the
weights: the arguments of the script, a configuration, an object of the author's.
"""

from __future__ import annotations

import io
import math
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ray_kd.models.pickles import CALLS, Calls, DamagedError, Name, Unread, read_pickle

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What files begin with that are no archives: PyTorch wrote them before 1.6."""
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
MOST = 1 << 44
"""Values that a tensor may claim to have: one that repeats its few values claims any number."""


@dataclass(frozen=True)
class Storage:
    """Bytes (flat, uint8) that tensors are cut from, and what they hold unless a tensor says otherwise."""

    raw: Tensor
    dtype: torch.dtype


def read_torch(data: bytes) -> Any:
    """The object in the bytes of a file that ``torch.save`` wrote.

    PyTorch's own careful reader comes first; what that refuses is read by ``ray_kd.models.pickles``.

    Raises:
        DamagedError: says what is wrong with the file.
    """
    archive = _archive(data)
    try:
        with warnings.catch_warnings(), torch.device("cpu"):
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # it refused, whatever for: our reader says what is wrong, if anything is
        pass
    with torch.device("cpu"):
        return _read_archive(data, archive) if archive is not None else _read_stream(data)


def _archive(data: bytes) -> zipfile.ZipFile | None:
    """The archive that the bytes are, its checksums verified; None: they are none."""
    if data[:4] != b"PK\x03\x04":
        return None
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        # PyTorch reads past a wrong checksum; without checksums, all of them are 0.
        wrong = archive.testzip() if any(entry.CRC for entry in archive.infolist()) else None
    except Exception as error:
        raise DamagedError("its archive cannot be opened: it was cut short, or copied as text") from error
    if wrong is not None:
        raise DamagedError(f"its record '{wrong}' is not what was written: the checksum differs")
    return archive


def _record(data: bytes, archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of a record, whose checksum was verified; as they lie in the file, if not compressed."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        try:
            return archive.read(name)
        except Exception as error:
            raise DamagedError(f"its record '{name}' cannot be unpacked") from error
    lengths = data[entry.header_offset + 26 : entry.header_offset + 30]  # of the name, and of what follows it
    begin = entry.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    return data[begin : begin + entry.file_size]


def _read_archive(data: bytes, archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    root = next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)
    if f"{root}constants.pkl" in names:
        raise DamagedError("it holds a TorchScript program: save the state_dict() of the network")
    if root is None:
        raise DamagedError("it is an archive, but torch.save did not write it: it has no data.pkl")
    if f"{root}byteorder" in names and _record(data, archive, f"{root}byteorder") != sys.byteorder.encode():
        raise DamagedError("it was written by a machine of another byte order")
    kept: dict[str, Tensor] = {}

    def storage(saved: Any) -> Storage:
        dtype, key, count = _described(saved)
        record = f"{root}data/{key}"
        if key not in kept:
            if record not in names:
                raise DamagedError(f"its record '{record}' is missing")
            kept[key] = _raw(_record(data, archive, record))
        if kept[key].numel() < count * dtype.itemsize:
            raise DamagedError(
                f"its record '{record}' holds {kept[key].numel()} bytes, expected {count * dtype.itemsize}"
            )
        return Storage(kept[key], dtype)

    return read_pickle(io.BytesIO(_record(data, archive, f"{root}data.pkl")), _calls(), storage)


def _read_stream(data: bytes, inner: bool = False) -> Any:
    """A file from before archives: several pickles, then the bytes of every storage; or one bare pickle.

    Args:
        inner: it lies within another file; none lies within it.
    """
    file, calls = io.BytesIO(data), _calls(inner)
    kept: dict[str, Storage] = {}

    def storage(saved: Any) -> Storage:
        dtype, key, count = _described(saved)
        held = sum(other.raw.numel() for other in kept.values())
        if key not in kept:
            if held + count * dtype.itemsize > len(data):
                raise DamagedError("it was cut short: the weights that it names are not in it")
            kept[key] = Storage(torch.empty(count * dtype.itemsize, dtype=torch.uint8), dtype)
        return Storage(kept[key].raw, dtype)

    first = read_pickle(file, calls)
    if first != MAGIC:
        return first
    if read_pickle(file) != PROTOCOL:
        raise DamagedError("its version is unknown")
    about = read_pickle(file)
    if not isinstance(about, dict) or about.get("little_endian") is not (sys.byteorder == "little"):
        raise DamagedError("it was written by a machine of another byte order")
    found, keys = read_pickle(file, calls, storage), read_pickle(file)
    if not isinstance(keys, list) or not kept.keys() <= set(map(str, keys)):
        raise DamagedError("the weights that it names are not in it")
    for key in map(str, keys):
        count = int.from_bytes(file.read(8), "little")
        wanted = kept.get(key)
        if wanted is None or wanted.raw.numel() != count * wanted.dtype.itemsize:
            raise DamagedError(f"its storage '{key}' has another size than its tensors say")
        values = file.read(wanted.raw.numel())
        if len(values) < wanted.raw.numel():
            raise DamagedError("it was cut short: the weights that it names are not in it")
        wanted.raw.copy_(_raw(values))
    return found


def _described(saved: Any) -> tuple[torch.dtype, str, int]:
    """Kind of value, key and count of values of a storage, from its persistent id."""
    if not isinstance(saved, tuple) or len(saved) < 5 or saved[0] != "storage":
        raise DamagedError("it refers to something other than weights outside its pickle")
    kind, key, _, count, *view = saved[1:]
    if not isinstance(kind, Name) or kind.name not in STORAGES:
        raise DamagedError(f"its weights are of an unknown kind ({kind})")
    if type(count) is not int or count < 0 or any(part is not None for part in view):
        raise DamagedError("its weights are described in a form that PyTorch gave up before 1.0")
    return STORAGES[kind.name], str(key), count


def _raw(record: bytes) -> Tensor:
    return torch.frombuffer(bytearray(record), dtype=torch.uint8) if record else torch.empty(0).byte()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """A tensor, of the storage's own kind of value: ``_rebuild_tensor`` and ``_rebuild_tensor_v2``."""
    if not isinstance(storage, Storage):
        return Unread(Name("torch", "Tensor"), (storage,))
    return _cut(storage.raw, storage.dtype, offset, tuple(size), tuple(stride))


def _typed_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Any:
    """A tensor of another kind of value than its storage: ``_rebuild_tensor_v3``."""
    kind = DTYPES.get(dtype.name) if isinstance(dtype, Name) and dtype.module == "torch" else None
    if not isinstance(storage, Storage) or kind is None:
        return Unread(Name("torch", "Tensor"), (storage, dtype))
    return _cut(storage.raw, kind, offset, tuple(size), tuple(stride))


def _cut(
    raw: Tensor, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    numbers = (offset, *size, *stride)
    whole = len(size) == len(stride) and all(type(number) is int and 0 <= number < MOST for number in numbers)
    count, values = raw.numel() // dtype.itemsize, math.prod(map(int, size)) if whole else 0
    if whole and values:
        whole = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) < count
    if not whole or values >= MOST:
        raise DamagedError("a tensor in it reaches beyond its values")
    if not values:
        return torch.empty(size, dtype=dtype)
    return raw[: count * dtype.itemsize].view(dtype).as_strided(size, stride, offset)


def _parameter(values: Any, *rest: Any) -> Any:
    return values


def _of_type(function: Any, kind: Any, arguments: Any, state: Any = None) -> Any:
    """A tensor of a class of its own, as the plain tensor that it is made of."""
    ours = TENSORS.get((function.module, function.name)) if isinstance(function, Name) else None
    return Unread(kind) if ours is None else ours(*arguments)


TENSORS: Calls = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
"""The names that make tensors, and the functions of ours that are called in their place."""


def _calls(inner: bool = False) -> Calls:
    """All names that may be called in a file of PyTorch's.

    A tensor that was pickled without ``torch.save`` keeps its values in such a file within the pickle.
    """
    within: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    }
    if not inner:
        within["torch.storage", "_load_from_bytes"] = partial(_read_stream, inner=True)
    return {**CALLS, **TENSORS, **within}
