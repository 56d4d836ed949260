"""A storage on an object store, here S3: it serves as a disk does, whatever becomes of single requests."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_kd.cli.main import main
from ray_kd.config.errors import StorageError, UserError
from ray_kd.config.faults import EnvironmentFault, environment_fault
from ray_kd.config.object_uri import ObjectURI
from ray_kd.config.spec import RunSpec
from ray_kd.storage import Store
from ray_kd.storage.objects import IN_PARTS
from ray_kd.training.distill import distill
from tests.helpers import tiny
from tests.s3 import BUCKET, KEYS, KINDS, Fault, S3Server


def asked(store: Store) -> list[Any]:
    """What a store answers to everything that it can be asked."""
    answers: list[Any] = []

    def ask(what: Callable[[], Any]) -> None:
        try:
            answers.append(what())
        except (FileNotFoundError, NotADirectoryError):
            answers.append("no such file")

    for path, data in (
        ("a/b", b"1"),
        ("a/c/d", b"22"),
        ("a/c/d", b"333"),
        ("top", b""),
        ("strange ä+%20#?", b"5"),
    ):
        store.write(path, data)
    store.write_json("deep/er/one.json", {"lr": 0.1})
    for path in ("a/b", "a/c/d", "a/c", "a/nothing", "a/b/below", "top", "strange ä+%20#?"):
        ask(lambda path=path: store.exists(path))  # type: ignore[misc]
    for path in ("a/b", "a/c/d", "a/nothing", "a/b/below"):
        ask(lambda path=path: store.read(path))  # type: ignore[misc]
        ask(lambda path=path: store.size(path))  # type: ignore[misc]
    for folder in ("", "a", "a/c", "a/b", "nothing", "deep"):
        ask(lambda folder=folder: store.names(folder))  # type: ignore[misc]
    ask(lambda: store.child("deep").read_json("er/one.json"))
    ask(lambda: store.sizes("a"))
    store.move("a/b", "a/e")
    store.copy("a/e", "f")
    store.delete("top")
    store.delete("top")
    store.delete_tree("a/c")
    store.delete_tree("nothing")
    ask(lambda: store.sizes())
    ask(lambda: store.create_exclusive("a/new", b"mine"))
    ask(lambda: store.create_exclusive("a/new", b"yours"))
    ask(lambda: store.read("a/new"))
    stamp = store.stamp("a/new")
    ask(lambda: stamp[0])
    ask(lambda: store.replace("a/new", b"later", stamp))
    ask(lambda: store.replace("a/new", b"too late", (b"", "another")) if store.is_local else False)
    ask(lambda: store.stamp("a/nothing"))
    return answers


def test_an_object_store_answers_as_a_disk_does(tmp_path: Path, s3: S3Server) -> None:
    assert asked(Store(s3.uri("answers"))) == asked(Store(tmp_path))


def test_a_store_is_the_place_that_pyarrow_finds_by_the_same_uri_and_variables(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is given the URI elsewhere, by users for example."""
    from pyarrow import fs

    uri = s3.uri("place")
    Store(uri).write("one", b"1")
    filesystem, root = fs.FileSystem.from_uri(uri)
    with filesystem.open_input_stream(f"{root}/one") as stream:
        assert stream.read() == b"1"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    assert Store(f"s3://{BUCKET}/place").read("one") == b"1"
    assert {seen.who for seen in s3.seen} == {KEYS["AWS_ACCESS_KEY_ID"]}


def test_the_filesystem_for_ray_reads_and_writes_and_travels_without_keys(s3: S3Server) -> None:
    store = Store(s3.uri("ray"))
    place, filesystem = store.for_ray("state")
    data = pickle.dumps(filesystem)
    assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in data
    with pickle.loads(data).open_output_stream(f"{place}/a/b") as stream:  # noqa: S301
        stream.write(b"x" * 100_000)
    assert store.read("state/a/b") == b"x" * 100_000
    assert filesystem.get_file_info(f"{place}/a/b").size == 100_000
    assert store.sizes("state") == {"state/a/b": 100_000}


def test_messages_show_uris_and_children_keep_their_query(s3: S3Server) -> None:
    store = Store(s3.uri("shown"))
    assert store.path("runs/1/lock") == f"s3://{BUCKET}/shown/runs/1/lock"
    assert store.child("runs").uri == s3.uri("shown/runs")
    assert Store(store.uri).uri == pickle.loads(pickle.dumps(store)).uri == store.uri  # noqa: S301
    with pytest.raises(FileNotFoundError, match=f"s3://{BUCKET}/shown/nothing"):
        store.read("nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_one_fault_of_any_kind_is_ridden_out(s3: S3Server, kind: str) -> None:
    """Whether the request took effect or not, the call does what it says, once."""
    store, data = Store(s3.uri(f"one-{kind}")), b"1" * 100_000
    for method, key in (("GET", ""), ("GET", "/a"), ("PUT", ""), ("DELETE", ""), ("HEAD", "")):
        store.delete_tree("")
        with s3.disturbed(Fault(kind, (method,), key, times=1, seconds=0.2)):
            store.write("a", data)
            assert store.sizes() == {"a": len(data)}
            assert store.exists("a")
            assert store.read("a") == data
            assert store.names() == ["a"]
            store.copy("a", "b")
            assert store.create_exclusive("c", b"mine")
            assert store.replace("c", b"mine again", store.stamp("c"))
            store.move("b", "d")
            store.delete("a")
        assert {path: store.read(path) for path in store.sizes()} == {"c": b"mine again", "d": data}
        assert not store.create_exclusive("c", b"yours")
    assert [seen.fault for seen in s3.seen].count(kind) == 5, "each was met"


def test_a_server_that_stays_away_is_a_fault_of_the_machine(s3: S3Server) -> None:
    store = Store(s3.uri("away"))
    store.write("a", b"1")
    stamp = store.stamp("a")
    with s3.disturbed(Fault("throttle")):
        with pytest.raises(EnvironmentFault, match=rf"cannot write s3://{BUCKET}/away/a: 503 .*SlowDown"):
            store.create_exclusive("a", b"2")
        with pytest.raises(OSError, match="503") as raised:
            store.stamp("a")
    assert environment_fault(raised.value) is not None
    assert raised.value.errno == errno.ETIMEDOUT
    assert store.stamp("a") == stamp


def test_a_refusal_is_the_users_mistake_and_says_what_was_refused(s3: S3Server) -> None:
    store = Store(f"s3://nobody/kd?endpoint_override=127.0.0.1:{s3.port}&scheme=http")
    with pytest.raises(StorageError, match="s3://nobody/kd/a: there is no such bucket"):
        store.read("a")
    with pytest.raises(UserError, match=r"s3://nobody/kd/a: there is no such bucket\. Check") as raised:
        store.write("a", b"")
    assert environment_fault(raised.value) is None


SECRETS = ("AKIDSECRET", "w0rdSECRET")
WITH_KEYS = (
    "s3://AKIDSECRET:w0rdSECRET@bucket/kd",
    "s3://AKIDSECRET@bucket/kd",
    "s3://bucket/kd?access_key=AKIDSECRET&secret_key=w0rdSECRET",
    "gs://bucket/kd?key=w0rdSECRET",
    "abfs://AKIDSECRET:w0rdSECRET@container/kd",
    "https://host/kd?X-Amz-Credential=AKIDSECRET&X-Amz-Signature=w0rdSECRET",
)


@pytest.mark.parametrize("uri", WITH_KEYS)
def test_a_key_in_a_uri_is_refused_and_never_repeated(uri: str, tmp_path: Path) -> None:
    for refuse in (
        lambda: Store(uri),
        lambda: RunSpec.parse({"dataset": "digits", "student": "digits_cnn", "storage": uri}),
        lambda: RunSpec.parse(
            {"dataset": "digits", "student": "digits_cnn", "targets": {"cache": uri, "source": "stored"}}
        ),
    ):
        with pytest.raises(UserError) as raised:
            refuse()
        said = "".join(map(str, [raised.value, raised.value.__cause__ or "", raised.value.args]))
        assert not any(secret in said for secret in SECRETS), said


@pytest.mark.parametrize("verb", [["status"], ["analyze"], ["prune"], ["sweep", "digits", "--storage"]])
def test_no_verb_prints_a_key_of_a_uri(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*verb, WITH_KEYS[0]])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "AWS_ACCESS_KEY_ID" in said.err, "what to do instead"
    assert not any(secret in said.out + said.err for secret in SECRETS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3x://bucket/kd", "Did you mean 's3://'"),
        ("s3://bucket/kd?reigon=eu-west-1", "unknown option 'reigon'.*endpoint_override, region, scheme"),
        ("s3:///kd", "names no bucket"),
        ("s3://bucket/kd#part", "has a '#'"),
    ],
)
def test_a_uri_that_names_no_place_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ObjectURI.parse(text)


@pytest.mark.parametrize(
    "text", ["results", "/abs/olute", "~/home", "C:/windows", "file:///abs", "a:b", "a@b?c#d"]
)
def test_a_path_is_no_uri(text: str) -> None:
    assert ObjectURI.parse(text) is None


def test_without_obstore_nothing_is_locked_and_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UserError, match=r"pip install 'ray-kd\[object-store\]'"):
        Store("s3://bucket/kd")


def test_two_endpoints_are_one_too_many(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"AWS_ENDPOINT_URL_S3 is http://127.0.0.1:9. Expected one"):
        Store(s3.uri("two") + "&region=other").read("a")


def test_keys_of_a_profile_are_used_where_the_environment_has_none(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text("[work]\naws_access_key_id = of-a-profile\naws_secret_access_key = unknown\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "work")
    store = Store(s3.uri("profile") + "&region=eu-west-1")  # a client of its own
    store.write("a", b"1")
    assert store.read("a") == b"1"
    assert {seen.who for seen in s3.seen} == {"of-a-profile"}
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "obstore.auth.boto3")
    with pytest.raises(UserError, match="pip install boto3, or set AWS_ACCESS_KEY_ID"):
        Store(s3.uri("profile") + "&region=eu-west-2").read("a")


def test_an_object_of_several_parts_is_whole(s3: S3Server) -> None:
    store, data = Store(s3.uri("parts")), os.urandom(IN_PARTS + 1000)
    store.write("big", data)
    assert store.read("big") == data
    assert s3.count("PUT", key="parts/big$") > 1


def test_a_run_asks_as_often_as_the_docs_say(s3: S3Server) -> None:
    def asked(epochs: int, every: int) -> int:
        """Requests of a run apart from those of its lock, whose number time decides."""
        training = {"epochs": epochs, "batch_size": 30}
        spec = tiny(Path("unused"), teacher=None, training=training, checkpoints={"every_epochs": every})
        s3.seen.clear()
        distill(spec.model_copy(update={"storage": s3.uri(f"asked-{epochs}-{every}")}))
        return s3.count() - s3.count(key="lock$")

    short, long, often = asked(2, 100), asked(6, 100), asked(6, 1)
    assert long - short == 2 * 4, "two for each epoch"
    assert often - long == 3 * 5 + 1, "three for each state, and one to delete the last but one"
    assert short - 2 * 2 - 3 <= 26
