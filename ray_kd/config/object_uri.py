"""URIs of object stores, which may name a place and never a key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

from ray_kd.config.errors import UserError, unknown

OPTIONS: dict[str, tuple[str, ...]] = {
    "s3": ("endpoint_override", "region", "scheme"),
    **dict.fromkeys(("gs", "gcs", "az", "abfs", "abfss"), ()),
}
"""The schemes, each with what its query may say; S3's names are those of pyarrow."""
KEYS = (
    "A key in a URI ends up in records, logs and process lists. Give it by the environment "
    "(AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, ...)."
)


@dataclass(frozen=True)
class ObjectURI:
    """A folder in a bucket.

    Attributes:
        bucket: the bucket; for Azure the container, perhaps with its account (``container@account...``).
        folder: the path below the bucket, without slashes at its ends.
        query: what follows ``?``.

    Example:
        >>> uri = ObjectURI.parse("s3://bucket/kd?region=eu-west-1")
        >>> str(uri.child("runs")), uri.shown("runs/1/spec.yaml")
        ('s3://bucket/kd/runs?region=eu-west-1', 's3://bucket/kd/runs/1/spec.yaml')
        >>> ObjectURI.parse("results") is None
        True
    """

    scheme: str
    bucket: str
    folder: str
    query: str = ""

    @classmethod
    def parse(cls, text: str, key: str = "storage") -> ObjectURI | None:
        """The URI in ``text``; None: it is a local path.

        Args:
            key: the setting that an error names.

        Raises:
            UserError: an unknown scheme or option, or a key in the URI; no message repeats the URI then.
        """
        scheme = urlsplit(text).scheme
        if len(scheme) < 2 or scheme == "file" or "://" not in text:  # one letter is a Windows drive
            return None
        if scheme not in OPTIONS:
            error = unknown("kind of URI", f"{scheme}://", [f"{name}://" for name in OPTIONS], key)
            raise UserError(f"{error} Expected a path, or a URI such as s3://bucket/folder.")
        parts = urlsplit(text)
        user, at, host = parts.netloc.rpartition("@")
        if at and (":" in user or not scheme.startswith("abfs") or "." not in host):
            raise UserError(f"{key}: this {scheme}:// URI holds a user or a key before '@'. {KEYS}")
        if not parts.netloc or parts.fragment:
            raise UserError(
                f"{key}: '{scheme}://...' names no bucket, or has a '#'; expected {scheme}://bucket/folder."
            )
        for name in parse_qs(parts.query, keep_blank_values=True):
            if name not in OPTIONS[scheme]:
                known = ", ".join(OPTIONS[scheme]) or "none"
                raise UserError(
                    f"{key}: unknown option '{name}' in a {scheme}:// URI. Known: {known}. {KEYS}"
                )
        return cls(scheme, parts.netloc, parts.path.strip("/"), parts.query)

    @property
    def options(self) -> dict[str, str]:
        """What the query says."""
        return {name: values[-1] for name, values in parse_qs(self.query).items()}

    @property
    def protocol(self) -> str:
        """The scheme's usual name."""
        return "gs" if self.scheme == "gcs" else self.scheme

    def child(self, path: str) -> ObjectURI:
        """The URI of something below."""
        return replace(self, folder="/".join(part for part in (self.folder, path.strip("/")) if part))

    def shown(self, path: str = "") -> str:
        """The URI of something below as messages show it: without the query."""
        found = self.child(path)
        return f"{found.scheme}://{found.bucket}/{found.folder}".rstrip("/")

    def __str__(self) -> str:
        return self.shown() + (f"?{self.query}" if self.query else "")
