"""Objects of S3, Google Cloud Storage or Azure below one URI, by obstore.

pyarrow, with which Ray reads URIs, has no conditional PUT, which locks need; and one throttled answer (503)
ends its reading of a small object. obstore has the one and waits out the other.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

from ray_kd.config.errors import StorageError, UserError
from ray_kd.config.object_uri import ObjectURI

PATIENT: dict[str, Any] = {"read_timeout": timedelta(seconds=120), "timeout": timedelta(hours=6)}
"""Seconds that a server may be silent, and that a whole request may take."""
RETRIES: dict[str, Any] = {
    "max_retries": 20,
    "retry_timeout": timedelta(seconds=60),
    # Each pause is random, below ``base`` times the one before: at obstore's own 2 they do not grow.
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=10),
        "base": 4,
    },
}
"""A request that is throttled or not answered is repeated for about a minute."""
QUICK: dict[str, Any] = {"timeout": timedelta(seconds=10)}
"""For locks: their holder must learn soon whether it still holds them."""
QUICK_RETRIES: dict[str, Any] = {"max_retries": 8, "retry_timeout": timedelta(seconds=10)}
LOST_WITHIN = 10.0
"""Seconds within which a request's answer may be lost for it to be sent again."""
IN_PARTS = 64 << 20
"""Bytes from which an object is uploaded in parts."""
EXPIRED = ("ExpiredToken", "RequestTimeTooSkewed", "RequestTimeout", "InvalidToken")
"""Codes of refusals that the environment is to blame for: the same request can succeed later."""

_CONDITIONAL: set[tuple[str, str]] = set()
"""Buckets that have been seen to refuse a second creation."""


class Objects:
    """The objects below a URI; paths are relative to it.

    Raises:
        UserError: obstore is not installed.
        FileNotFoundError: no such object.
        StorageError: the store refuses a request: no permission, no such bucket.
        OSError: with a number of ``config.faults``: it does not answer, or is throttling for too long.
    """

    def __init__(self, uri: ObjectURI) -> None:
        _require_obstore(uri)
        self.uri = uri

    @property
    def _client(self) -> Any:
        return _made(self.uri.scheme, self.uri.bucket, self.uri.query, False)

    @property
    def _quick(self) -> Any:
        return _made(self.uri.scheme, self.uri.bucket, self.uri.query, True)

    def exists(self, path: str) -> bool:
        """Whether there is an object of this path, or one below it."""
        with suppress(FileNotFoundError):
            self.info(path)
            return True
        return any(True for _ in self._repeated(path, lambda: self._listed(path)))

    def read(self, path: str) -> bytes:
        """An object's bytes."""
        return bytes(self._repeated(path, lambda: self._client.get(self._key(path)).bytes()))

    def write(self, path: str, data: bytes) -> None:
        """Write an object whole, replacing one there."""
        parts: dict[str, Any] = {"chunk_size": IN_PARTS // 4, "max_concurrency": 4}
        several = len(data) > IN_PARTS
        self._repeated(path, lambda: self._client.put(self._key(path), data, use_multipart=several, **parts))

    def names(self, folder: str) -> list[str]:
        """Sorted names of the objects and folders in a folder."""
        found = self._repeated(folder, lambda: self._client.list_with_delimiter(self._key(folder) or None))
        paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths} - {""})

    def sizes(self, folder: str) -> dict[str, int]:
        """The bytes of every object below a folder, by path."""
        start = len(f"{self.uri.folder}/") if self.uri.folder else 0
        listed = self._repeated(folder, lambda: self._listed(folder))
        return {meta["path"][start:]: int(meta["size"]) for meta in listed}

    def delete(self, path: str) -> None:
        """Delete an object, if there is one."""
        with suppress(FileNotFoundError):
            self._repeated(path, lambda: self._client.delete(self._key(path)))

    def delete_tree(self, folder: str) -> None:
        """Delete every object below a folder."""
        paths = [meta["path"] for meta in self._repeated(folder, lambda: self._listed(folder))]
        if paths:
            self._repeated(folder, lambda: self._client.delete(paths))

    def copy(self, path: str, to: str) -> None:
        """Copy an object within the store, replacing one there."""
        self._repeated(path, lambda: self._client.copy(self._key(path), self._key(to)))

    def create(self, path: str, data: bytes) -> bool:
        """Create an object that must not exist yet (``If-None-Match: *``); True: this call created it.

        ``data`` must be the caller's alone: where an answer is lost, the object's content says who wrote it.
        """
        created = self._put(path, data, "create")
        if created and (self.uri.bucket, self.uri.query) not in _CONDITIONAL:
            if self._put(path, data + b" again", "create"):
                raise UserError(
                    f"storage: the store of {self.uri.shown()} ignores If-None-Match, so two processes could "
                    "hold one lock. Expected a store with conditional requests, or a shared path."
                )
            _CONDITIONAL.add((self.uri.bucket, self.uri.query))
        return created

    def replace(self, path: str, data: bytes, version: dict[str, str]) -> bool:
        """Replace an object that still is at ``version`` (``If-Match``); True: this call replaced it."""
        return self._put(path, data, version)

    def stamp(self, path: str) -> tuple[bytes, dict[str, str]]:
        """An object's bytes and its version."""

        def get() -> tuple[bytes, dict[str, str]]:
            found = self._quick.get(self._key(path))
            version = {name: found.meta.get(name) for name in ("e_tag", "version")}
            return bytes(found.bytes()), {name: str(value) for name, value in version.items() if value}

        return cast("tuple[bytes, dict[str, str]]", self._repeated(path, get))

    def info(self, path: str) -> Any:
        """An object's ``size`` and ``last_modified``."""
        return self._repeated(path, lambda: self._client.head(self._key(path)))

    def place(self, path: str) -> str:
        """Bucket and key of a path, as filesystems of other libraries name them."""
        return f"{self.uri.bucket}/{self._key(path)}"

    def _put(self, path: str, data: bytes, mode: Any) -> bool:
        """A conditional PUT. Whether one took effect whose answer was lost is read from the object."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def put() -> bool:
            try:
                self._quick.put(self._key(path), data, mode=mode, use_multipart=False)
                return True
            except (AlreadyExistsError, PreconditionError):
                return self._is(path, data)  # a repeated request meets what the first one wrote

        return bool(self._repeated(path, put))

    def _repeated(self, path: str, request: Callable[[], Any]) -> Any:
        """Send a request; again if its answer was lost or broke off; obstore repeats few of those."""
        begun = time.monotonic()
        for pause in (0.1, 0.5, 2.0):
            try:
                with self._asking(path):
                    return request()
            except OSError as error:
                if "HTTP error" not in str(error) or time.monotonic() - begun > LOST_WITHIN:
                    raise  # it was answered, or obstore has repeated it
                time.sleep(pause)
        with self._asking(path):
            return request()

    def _is(self, path: str, data: bytes) -> bool:
        try:
            return self.stamp(path)[0] == data
        except FileNotFoundError:
            return False

    def _key(self, path: str) -> str:
        return self.uri.child(path).folder

    def _listed(self, folder: str) -> list[Any]:
        chunks = self._client.list(f"{self._key(folder)}/" if self._key(folder) else None)
        return [meta for chunk in chunks for meta in chunk]

    @contextmanager
    def _asking(self, path: str) -> Iterator[None]:
        """Within the block obstore's errors become Python's."""
        import obstore

        try:
            yield
        except FileNotFoundError as error:  # as obstore raises it
            if "NoSuchBucket" in str(error):
                raise StorageError(errno.EINVAL, f"{self.uri.shown(path)}: there is no such bucket") from None
            raise FileNotFoundError(errno.ENOENT, "no such object", self.uri.shown(path)) from None
        except obstore.exceptions.BaseError as error:
            known = isinstance(error, obstore.exceptions.GenericError)
            raise _as_os_error(str(error), self.uri.shown(path), known) from None


def _as_os_error(text: str, where: str, sent: bool) -> OSError:
    """A failed request's error, in one line without a query, a signature or a key.

    Args:
        sent: whether the request itself failed, and not its settings.
    """
    status = re.search(r"status code: (\d+)( [A-Z][A-Za-z ]*)?", text)
    code, message = (re.search(f"<{name}>([^<]*)</{name}>", text) for name in ("Code", "Message"))
    if status is None:
        reason = re.sub(r"\?\S*", "", text.partition("\n")[0])
    else:
        said = ": ".join(found[1] for found in (code, message) if found is not None)
        reason = f"{status[1]}{status[2] or ''}" + (f" ({said})" if said else "")
    if "//169.254." in text:  # the place of a machine's role
        reason = f"no keys were found in the environment, in ~/.aws or in this machine's role ({reason})"
        status, sent = None, True
    line = f"{where}: {reason}"
    away = sent if status is None else int(status[1]) >= 500 or status[1] in ("408", "429")
    if away or (code is not None and code[1] in EXPIRED):
        return OSError(errno.ETIMEDOUT, line)
    return StorageError(
        errno.EACCES if status is not None and status[1] in ("401", "403") else errno.EINVAL, line
    )


def _require_obstore(uri: ObjectURI) -> None:
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"storage: {uri.scheme}:// needs the package obstore, which holds locks there ({error}). "
            "Install ray-kd with the extra 'object-store': pip install 'ray-kd[object-store]'."
        ) from error


@functools.cache
def _made(scheme: str, bucket: str, query: str, quick: bool) -> Any:
    """The client of a bucket; a process has one, which keeps its connections."""
    import obstore.store

    from_url: Any = obstore.store.from_url
    uri = ObjectURI(scheme, bucket, "", query)
    found = settings(uri)
    if quick:
        found |= {"client_options": {**found["client_options"], **QUICK}, "retry_config": QUICK_RETRIES}
    return from_url(f"{uri.protocol}://{bucket}", **found)


def settings(uri: ObjectURI) -> dict[str, Any]:
    """What obstore needs to know of a bucket beyond its URI; keys stay where they are."""
    client = dict(PATIENT)
    found = {"client_options": client, "retry_config": RETRIES}
    if uri.scheme != "s3":
        return found
    first = os.environ.get("AWS_ENDPOINT_URL_S3", "")
    endpoint = first or os.environ.get("AWS_ENDPOINT_URL", "")
    if "endpoint_override" in uri.options:
        endpoint = f"{uri.options.get('scheme', 'https')}://{uri.options['endpoint_override']}"
        if first not in ("", endpoint):  # of which obstore would take the variable's and pyarrow the URI's
            raise UserError(
                f"storage: the URI's endpoint is {endpoint}, and that of AWS_ENDPOINT_URL_S3 is {first}. "
                "Expected one of them."
            )
    region = uri.options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    config: dict[str, Any] = {"disable_bulk_delete": True}  # obstore repeats a single DELETE, but not a bulk
    config["region"] = region or _region(uri.bucket, endpoint)
    if endpoint:
        config["endpoint"] = endpoint
    client["allow_http"] = endpoint.startswith("http://")
    return {**found, "config": config, **_profile()}


def _region(bucket: str, endpoint: str) -> str:
    """The region of one of Amazon's buckets, which its own server tells."""
    if endpoint:
        return "us-east-1"
    from pyarrow import fs

    try:
        return str(fs.resolve_s3_region(bucket))
    except OSError as error:
        raise UserError(
            f"storage: the region of the bucket '{bucket}' cannot be found ({error}). Set AWS_REGION."
        ) from error


def _profile() -> dict[str, Any]:
    """Keys of ``~/.aws``, which only boto3 reads, where the environment gives none."""
    given = ("ACCESS_KEY_ID", "WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_RELATIVE_URI")
    if any(f"AWS_{name}" in os.environ for name in (*given, "CONTAINER_CREDENTIALS_FULL_URI")):
        return {}
    files = {"SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "CONFIG_FILE": "~/.aws/config"}
    paths = [os.environ.get(f"AWS_{name}", default) for name, default in files.items()]
    if "AWS_PROFILE" not in os.environ and not any(os.path.exists(os.path.expanduser(p)) for p in paths):
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise UserError(
            f"storage: the keys for S3 lie in a profile ({paths[0]}), which boto3 reads ({error}). "
            "pip install boto3, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    return {"credential_provider": Boto3CredentialProvider()}
