"""An S3 server on this machine, with faults on request.

moto's S3 (in memory) behind werkzeug on a loopback port. In between, requests are counted and disturbed:
throttled (503), delayed, cut off before, in or after their effect. moto checks the condition of a PUT
(`If-None-Match`, `If-Match`) and writes in two steps, so that two threads can both pass: here requests take
effect one by one, as S3 itself promises for one key.

    python -m tests.s3            a server for trying things by hand; prints what to set
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any
from urllib.parse import unquote

from werkzeug.serving import WSGIRequestHandler, make_server

KEYS = {"AWS_ACCESS_KEY_ID": "loopback", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
"""What a client's environment needs: any keys do, since the server asks for none in particular."""
NO_METADATA = {"AWS_EC2_METADATA_DISABLED": "true"}
"""Keeps clients from looking for keys in the network."""
BUCKET = "bucket"

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
KINDS = ("throttle", "delay", "refuse", "cut", "lose")
"""throttle: 503 SlowDown, without effect. delay: takes effect late. refuse: the connection is reset, without
effect. cut: half of the answer's body, then a reset. lose: takes effect, then a reset and no answer."""


@dataclass
class Fault:
    """Disturbs requests.

    Attributes:
        kind: one of ``KINDS``.
        methods: methods it concerns, such as ``PUT``; empty: all.
        key: a regular expression that the object's key has to match somewhere.
        share: the part of these requests that it disturbs, drawn by the server's seed.
        times: how many it disturbs at most; None: any number.
        seconds: of a delay.
        late: whether a delay comes after the effect, before the answer.
    """

    kind: str
    methods: tuple[str, ...] = ()
    key: str = ""
    share: float = 1.0
    times: int | None = None
    seconds: float = 0.0
    late: bool = False
    hits: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a fault's kind is one of {', '.join(KINDS)}, not {self.kind!r}")


@dataclass(frozen=True)
class Seen:
    """A request that came in; status 0: it got no answer; who: the id of the key that it is signed with."""

    method: str
    key: str
    query: str
    status: int
    fault: str | None = None
    who: str = ""


class Quiet(WSGIRequestHandler):
    """Logs no requests, since ``seen`` has them; a fault may close its connection."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()


@dataclass
class S3Server:
    """A running server; use ``s3_server``.

    Attributes:
        faults: the first one that concerns a request disturbs it; change the list at any time.
        seen: the requests so far.
        unconditional: whether it ignores the conditions of a PUT, as some servers that speak S3 do.
    """

    seed: int = 0
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    unconditional: bool = False

    def __post_init__(self) -> None:
        self._random, self._drawing, self._one = random.Random(self.seed), threading.Lock(), threading.Lock()
        self._app: Callable[..., Iterable[bytes]] | None = None
        self._server: Any = None

    def uri(self, folder: str = "kd") -> str:
        """The URI of a folder in the server's bucket."""
        return f"s3://{BUCKET}/{folder}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a client needs for ``uri``."""
        return {**KEYS, **NO_METADATA}

    def count(self, *methods: str, key: str = "") -> int:
        """How many requests came in with one of these methods (none: any) and a key that matches."""
        return sum(
            (not methods or seen.method in methods) and re.search(key, seen.key) is not None
            for seen in list(self.seen)
        )

    @contextmanager
    def disturbed(self, *faults: Fault) -> Iterator[None]:
        """Within the block these faults come first."""
        self.faults[:0] = faults
        try:
            yield
        finally:
            self.faults = [one for one in self.faults if not any(one is fault for fault in faults)]

    def start(self) -> None:
        """Serve on a free port, in threads of this process, with one empty bucket."""
        from moto.moto_server.werkzeug_app import create_backend_app

        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # connections that faults have closed
        self._app = create_backend_app("s3")
        self._server = make_server("127.0.0.1", 0, self.answer, threaded=True, request_handler=Quiet)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._make_bucket()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _make_bucket(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("PUT", f"/{BUCKET}", headers={"Content-Length": "0"})
        answer = connection.getresponse()
        if answer.status not in (200, 409):  # 409: another server of this process has made it
            raise RuntimeError(f"the S3 server makes no bucket: {answer.status} {answer.read()!r}")
        connection.close()

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI application: a request, perhaps disturbed."""
        method, key = environ["REQUEST_METHOD"], unquote(environ["PATH_INFO"]).partition(f"/{BUCKET}")[2][1:]
        environ["wsgi.input"] = io.BytesIO(_body(environ))
        for name in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH") if self.unconditional else ():
            environ.pop(name, None)
        fault = self._fault(method, key)
        kind = None if fault is None else fault.kind

        who = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]

        def note(status: int) -> None:
            self.seen.append(Seen(method, key, environ.get("QUERY_STRING", ""), status, kind, who))

        if kind == "throttle":
            note(503)
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        if kind == "refuse":
            note(0)
            return _reset(environ)
        if fault is not None and kind == "delay" and not fault.late:
            time.sleep(fault.seconds)
        kept: list[Any] = []
        with self._one:
            parts = self._app(environ, lambda *args: kept.append(args[:2]))  # type: ignore[misc]
            body = b"".join(parts)
        status, headers = kept[0]
        if fault is not None and kind == "delay" and fault.late:
            time.sleep(fault.seconds)
        if kind == "lose":
            note(0)
            return _reset(environ)
        note(int(status.split()[0]))
        start_response(status, headers)
        if kind == "cut" and body:
            return _half(environ, body)
        return [body]

    def _fault(self, method: str, key: str) -> Fault | None:
        with self._drawing:
            for fault in self.faults:
                if (
                    (not fault.methods or method in fault.methods)
                    and (fault.times is None or fault.hits < fault.times)
                    and re.search(fault.key, key)
                    and self._random.random() < fault.share
                ):
                    fault.hits += 1
                    return fault
        return None


def _body(environ: Mapping[str, Any]) -> bytes:
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        return bytes(stream.read())
    return bytes(stream.read(int(environ.get("CONTENT_LENGTH") or 0)))


def _reset(environ: Mapping[str, Any]) -> list[bytes]:
    """End the connection without an answer, as a lost one ends."""
    connection = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # close() would wait for the files that werkzeug made of it
    raise ConnectionResetError("a fault, on request")


def _half(environ: Mapping[str, Any], body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    _reset(environ)


@contextmanager
def s3_server(seed: int = 0, *faults: Fault) -> Iterator[S3Server]:
    """A server of this process, with one empty bucket; other processes of this machine reach it.

    Example:
        >>> with s3_server(0, Fault("throttle", ("PUT",), share=0.1)) as server:
        ...     environment = {**os.environ, **server.environment}
        ...     subprocess.run(["ray-kd", "status", server.uri()], env=environment)
    """
    server = S3Server(seed, list(faults))
    server.start()
    try:
        yield server
    finally:
        server.stop()


if __name__ == "__main__":
    with s3_server() as running:
        print(*(f"export {name}={value}" for name, value in running.environment.items()), sep="\n")
        print(f"STORAGE='{running.uri()}'", flush=True)
        threading.Event().wait()
