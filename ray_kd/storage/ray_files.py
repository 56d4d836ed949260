"""An object store as a filesystem for Ray: the client, keys and patience of ``Objects``; needs obstore."""

from __future__ import annotations

from typing import Any

from obstore.fsspec import FsspecStore

from ray_kd.config.object_uri import ObjectURI
from ray_kd.storage.objects import settings


class RayFiles(FsspecStore):
    """The buckets that a URI's settings reach; pickled as the URI, so without keys."""

    def __init__(self, uri: str) -> None:
        found = ObjectURI.parse(uri)
        assert found is not None
        begin: Any = super().__init__
        begin(found.protocol, **settings(found))

    def _open(self, *arguments: Any, **options: Any) -> Any:
        file: Any = super()._open(*arguments, **options)
        write = file.write
        file.write = lambda data: write(
            bytes(data)
        )  # obstore takes no signed bytes, as pyarrow's buffers have
        return file
