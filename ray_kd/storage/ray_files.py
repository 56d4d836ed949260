"""An object store as a filesystem for Ray: the client, keys and patience of ``Objects``; needs obstore."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from obstore.fsspec import FsspecStore
from pyarrow.fs import FSSpecHandler, PyFileSystem

from ray_kd.config.object_uri import ObjectURI
from ray_kd.storage.objects import Objects, settings


class RayFiles(FsspecStore):
    """The buckets that a URI's settings reach; pickled as the URI, so without keys."""

    def __init__(self, uri: str) -> None:
        found = ObjectURI.parse(uri)
        assert found is not None
        self._place = found
        begin: Any = super().__init__
        begin(found.protocol, **settings(found))

    def isfile(self, path: str) -> bool:
        """Whether there is such an object; the base class also says no where the store does not answer."""
        try:
            return bool(self.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def _open(self, path: str, mode: str = "rb", *arguments: Any, **options: Any) -> Any:
        if mode == "rb":
            bucket, _, key = path.partition("/")
            whole = Objects(replace(self._place, bucket=bucket, folder=""))
            return io.BytesIO(whole.read(key))
        file: Any = super()._open(path, mode, *arguments, **options)
        write = file.write
        # obstore takes no signed bytes, as pyarrow's buffers have.
        file.write = lambda data: write(bytes(data))
        return file


def for_ray(objects: Objects, path: str) -> tuple[str, PyFileSystem]:
    """A path and the pyarrow filesystem for Ray, which then reads and writes as ``Objects`` does."""
    return objects.place(path), PyFileSystem(FSSpecHandler(RayFiles(str(objects.uri))))
