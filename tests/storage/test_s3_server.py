"""The S3 server of the tests does what a real one would, and disturbs what it is asked to."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

import pytest

from tests.s3 import BUCKET, Fault, S3Server, s3_server

SIGNED = "AWS4-HMAC-SHA256 Credential=loopback/20260101/us-east-1/s3/aws4_request, SignedHeaders=, Signature="
"""As a client signs; the server looks at no signature, but shows nothing to one who has none."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server(3) as running:
        yield running


def ask(server: S3Server, method: str, key: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        named = {"Authorization": SIGNED} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"/{BUCKET}/{key}", body if method == "PUT" else None, named)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_of_many_who_create_an_object_at_once_one_does(server: S3Server) -> None:
    def create(number: int) -> int:
        return ask(server, "PUT", "race", str(number).encode(), If_None_Match="*")[0]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(create, range(48)))
    assert sorted(answers) == [200] + 47 * [412]
    assert ask(server, "GET", "race") == (200, str(answers.index(200)).encode())


@pytest.mark.parametrize(("kind", "written"), [("throttle", False), ("refuse", False), ("lose", True)])
def test_a_disturbed_put_has_the_effect_that_its_kind_says(
    server: S3Server, kind: str, written: bool
) -> None:
    with server.disturbed(Fault(kind, ("PUT",), key="^odd/", times=1)):
        if kind == "throttle":
            status, body = ask(server, "PUT", f"odd/{kind}", b"data")
            assert status == 503
            assert b"<Code>SlowDown</Code>" in body
        else:
            with pytest.raises((HTTPException, ConnectionError)):
                ask(server, "PUT", f"odd/{kind}", b"data")
        assert ask(server, "GET", f"odd/{kind}")[0] == (200 if written else 404)
    assert ask(server, "PUT", f"odd/{kind}", b"data")[0] == 200
    assert [seen.fault for seen in server.seen if seen.key == f"odd/{kind}"] == [kind, None, None]


def test_a_cut_answer_ends_in_its_middle(server: S3Server) -> None:
    ask(server, "PUT", "long", b"x" * 100_000)
    with server.disturbed(Fault("cut", ("GET",), times=1)), pytest.raises((HTTPException, ConnectionError)):
        ask(server, "GET", "long")
    assert ask(server, "GET", "long") == (200, b"x" * 100_000)


def test_a_share_of_the_requests_is_disturbed_by_the_servers_seed(server: S3Server) -> None:
    fault = Fault("throttle", ("HEAD",), share=0.5)
    with server.disturbed(fault):
        answers = [ask(server, "HEAD", "nothing")[0] for _ in range(40)]
    assert set(answers) == {404, 503}
    assert answers.count(503) == fault.hits
    assert server.count("HEAD", key="^nothing$") == 40
