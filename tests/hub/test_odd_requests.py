"""Requests that no client sends, or only a strange one: each is answered with a sentence."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import AsyncRequestFactory, Client
from django.test.utils import CaptureQueriesContext
from django.urls import resolve

from marketplace.hub import files
from marketplace.hub.errors import header_text
from marketplace.hub.gitignore import is_ignored
from tests.hub.stock import foundation, vector
from tests.hub.test_pushing import HEADER, Hub, deleted, hub_of, message, pointer, weights
from tests.vectors.conftest import local_storage
from vectors import claims, uploads
from vectors.cards import read_card
from vectors.keeping import store_bytes
from vectors.models import Access, Claim, Foundation, Upload, Vector, Version, Visibility

__all__ = ["local_storage"]  # a fixture
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("local_storage")]

HALF = "\ud800"  # of a surrogate pair


@pytest.fixture
def tiny(db: None) -> Foundation:
    return foundation("lab/tiny", "---\nlicense: mit\n---\n# Tiny\n")


@pytest.fixture
def law(owner: User, tiny: Foundation) -> Vector:
    return vector("olive/law", owner, tiny)


@pytest.fixture
def olive(law: Vector, owner: User) -> Hub:
    """The owner of olive/law and of olive/poems, in which nothing is published yet."""
    Claim.objects.create(owner=owner, namespace="olive", name="poems")
    return hub_of(owner)


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


# --- numbers and pages -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["/api/models", "/api/models/olive/law/tree/main", "/api/models/olive/law/likers"]
)
def test_a_number_that_is_none_counts_as_none(law: Vector, client: Client, address: str) -> None:
    plain = client.get(address).content
    assert client.get(f"{address}?limit=²").content == plain
    if address != "/api/models":
        assert client.get(f"{address}?cursor=²").content == plain


@pytest.mark.parametrize(
    ("sort", "text"),
    [
        ("downloads", "[1, Infinity, 1]"),
        ("downloads", "[1, 0, null]"),
        ("createdAt", '["0001-01-01T00:00:00+23:59", 0, 1]'),
        ("createdAt", "[" * 40_000),
    ],
)
def test_a_cursor_of_somebody_elses_is_refused(
    law: Vector, client: Client, sort: str, text: str
) -> None:
    answer = client.get(f"/api/models?sort={sort}&cursor={cursor(text)}")
    assert "`cursor`" in message(answer, 400)


def test_a_cursor_without_a_time_zone_is_read(law: Vector, client: Client) -> None:
    text = cursor('["2024-01-01T00:00:00", 0, 1]')
    assert client.get(f"/api/models?sort=createdAt&cursor={text}").json() == []


# --- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [HALF, "a\0b"], ids=["half a character", "NUL"])
@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("/api/repos/move", "fromRepo"),
        ("/api/recipes", "expression"),
        ("/api/models/olive/law/branch/dev", "startingPoint"),
        ("/api/validate-yaml", "content"),
    ],
)
def test_text_that_no_database_keeps(olive: Hub, address: str, key: str, text: str) -> None:
    assert "not JSON" in message(olive.ask("POST", address, {key: f"{text}/x"}), 400)


def test_a_backslash_before_u0000_is_text(olive: Hub) -> None:
    body = {"content": "# \\u0000 \\\\u0000 \U0001f600"}
    assert olive.ask("POST", "/api/validate-yaml", body).status_code == 200


def test_a_card_may_escape_such_text(olive: Hub) -> None:
    card = '---\nbase_model: "lab/\\ud800"\ntitle: "a\\0b"\n---\n'
    assert read_card(card).data == {"base_model": "lab/?", "title": "a?b"}
    answer = olive.ask("POST", "/api/validate-yaml", {"content": card})
    assert "base_model: lab/? is not here" in message(answer, 400)


@pytest.mark.parametrize(
    "address",
    [
        "/api/models/olive/a%00b",
        "/api/models?filter=%00",
        "/olive/law/resolve/main/a%00b",
        "/olive/l%00aw",
        "/equipped/a%00b",
        "/vectors?q=%00",
    ],
)
def test_nothing_has_nul_in_its_name(
    law: Vector, client: Client, django_assert_num_queries: Any, address: str
) -> None:
    with django_assert_num_queries(0):  # PostgreSQL would break off at it
        assert client.get(address).status_code == 404


def test_a_sentence_travels_as_one_line_that_can_be_read() -> None:
    assert header_text("a\0b\x1b[31m\x85c\r\nd — “e” 字") == 'ab[31m c d \\u2014 "e" \\u5b57'


# --- bodies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"\n", b"\r\n \n"])
def test_a_commit_of_empty_lines_is_empty(olive: Hub, body: bytes) -> None:
    answer = olive.ask("POST", "/api/models/olive/poems/commit/main", body)
    assert "not even a header" in message(answer, 400)


def test_an_empty_line_before_the_header_is_nothing(olive: Hub) -> None:
    answer = olive.ask("POST", "/api/models/olive/poems/commit/main", b"\n" + HEADER)
    assert answer.status_code == 200
    answer = olive.ask("POST", "/api/models/olive/poems/commit/main", HEADER + b"\n" + HEADER)
    assert "one only" in message(answer, 400)


@pytest.mark.parametrize("transfers", [5, "multipart", {"multipart": 1}, [[]]])
def test_transfers_are_a_list(olive: Hub, transfers: object) -> None:
    answer = olive.batch("0" * 64, 5, transfers=transfers)
    assert answer.status_code == 200
    assert answer.json()["transfer"] == "basic"


def test_paths_in_a_body_without_end(olive: Hub) -> None:
    answer = olive.ask("POST", "/api/models/olive/law/paths-info/main", b"[" * 100_000)
    assert "not JSON" in message(answer, 400)


def test_a_form_without_fields_asks_for_access(law: Vector, stranger: User) -> None:
    Vector.objects.update(access=Access.MANUAL)
    answer = Client().post(
        "/olive/law/ask-access",
        b"--x--\r\n",
        content_type="multipart/form-data; boundary=x",
        headers={"Authorization": f"Bearer {hub_of(stranger).token}"},
    )
    assert answer.json() == {"status": "pending"}


def test_private_means_private_however_it_is_said(olive: Hub) -> None:
    answer = olive.ask("PUT", "/api/models/olive/law/settings", {"private": "true"})
    assert answer.json()["private"] is True
    assert Vector.objects.get().visibility == Visibility.PRIVATE


def test_a_path_of_a_million_folders_is_soon_looked_at(olive: Hub) -> None:
    deep = "a/" * 1_000_000
    assert not is_ignored(deep, "*.log\n**/b/**/c\n")
    assert is_ignored(f"logs/{deep}", "logs/\n")
    body = {"files": [{"path": deep, "size": 1}], "gitIgnore": "*.log\n"}
    answer = olive.ask("POST", "/api/models/olive/poems/preupload/main", body)
    assert "not a usable file name" in message(answer, 400)


def test_bytes_damaged_in_parts_can_be_sent_again(olive: Hub) -> None:
    """A client that is killed before it asks for the check comes back and sends anew."""
    content = weights(1)
    oid = hashlib.sha256(content).hexdigest()
    action = olive.batch(oid, len(content)).json()["objects"][0]["actions"]["upload"]
    Client().put(action["href"], bytes(len(content)))
    uploads.complete(Upload.objects.get())
    assert "SHA-256" in message(olive.batch(oid, len(content)), 400)
    assert not Upload.objects.exists()
    assert olive.send(content) == oid


def test_two_renames_to_one_name_at_once(
    olive: Hub, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector("olive/order", owner, Foundation.objects.get())
    monkeypatch.setattr(claims, "check_free", lambda *_args: None)  # free when it was asked
    body = {"fromRepo": "olive/law", "toRepo": "olive/order", "type": "model"}
    answer = olive.ask("POST", "/api/repos/move", body)
    assert "olive/order exists already" in message(answer, 409)
    assert Vector.objects.filter(name="law").exists()


# --- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "/api/models/olive%2Flaw/tree/main",
        "/api/models/olive%2Flaw/tree/main?recursive=true",
        "/api%2Fmodels/olive/law/tree/main",
        "/api/models/olive%2Flaw%2Ftree%2Fmain",
    ],
)
def test_a_repositorys_slash_may_be_encoded(law: Vector, address: str) -> None:
    answer = as_sent("GET", address)
    assert answer.status_code == 200, answer.content
    assert [row["path"] for row in json.loads(answer.content)] == ["adapter_model.safetensors"]


def test_a_file_of_a_repository_whose_slash_is_encoded(law: Vector) -> None:
    answer = as_sent("HEAD", "/olive%2Flaw/resolve/main/adapter_model.safetensors")
    assert answer.status_code == 200, answer.content


def as_sent(method: str, address: str) -> Any:
    """The answer of a server that knows the address as it was sent."""
    request: Any = AsyncRequestFactory().generic(method, address)
    request.scope["raw_path"] = address.partition("?")[0].encode()
    found = resolve(request.path)
    return found.func(request, *found.args, **found.kwargs)


# --- files -----------------------------------------------------------------------------------


def add(row: Foundation | Version, path: str, content: bytes) -> None:
    with transaction.atomic():
        row.files.create(path=path, blob=store_bytes(content))


def header_of(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [b"[1]", b"not JSON", b"[" * 100_000, b'{"weight_map": [1]}', b'{"weight_map": {"a": [1]}}'],
)
def test_an_index_that_is_none(tiny: Foundation, client: Client, content: bytes) -> None:
    add(tiny, "modules.json", content)
    answer = client.get("/api/models/lab/tiny/safetensors-metadata/modules.json")
    assert "is no safetensors file" in message(answer, 400)


def test_an_index_of_shards_that_are_not_there(tiny: Foundation, client: Client) -> None:
    add(tiny, "some.index.json", b'{"weight_map": {"a": "none.safetensors"}}')
    answer = client.get("/api/models/lab/tiny/safetensors-metadata/some.index.json")
    assert answer["X-Error-Code"] == "EntryNotFound"


def test_an_index_that_nobody_could_read(
    tiny: Foundation, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_HEADER", 10)
    add(tiny, "tokenizer.json", json.dumps({"model": "x" * 20}).encode())
    answer = client.get("/api/models/lab/tiny/safetensors-metadata/tokenizer.json")
    assert answer.status_code == 400


@pytest.mark.parametrize("text", [b"nonsense", b"[1, 2, 3]", b"[" * 100_000])
def test_weights_whose_header_cannot_be_read(tiny: Foundation, client: Client, text: bytes) -> None:
    add(tiny, "odd.safetensors", header_of(text))
    answer = client.get("/api/models/lab/tiny/safetensors-metadata/odd.safetensors")
    assert "is no safetensors file" in message(answer, 400)
    tiny.files.exclude(path="odd.safetensors").delete()
    assert client.get("/api/models/lab/tiny").status_code == 200


def test_paths_are_told_with_their_last_commit(law: Vector, client: Client) -> None:
    """``HfFileSystem.modified`` asks so."""
    address, path = "/api/models/olive/law/paths-info/main", "adapter_model.safetensors"
    (plain,) = client.post(address, {"paths": [path], "expand": "false"}).json()
    assert "lastCommit" not in plain
    (told,) = client.post(address, {"paths": [path], "expand": "true"}).json()
    assert set(told["lastCommit"]) == {"id", "title", "date"}
    body = {"paths": [path], "expand": True}
    assert client.post(address, body, "application/json").json() == [told]


@pytest.fixture
def config(law: Vector) -> str:
    """The hash by which olive/law tells its adapter_config.json, whose base model is rewritten."""
    assert law.current is not None
    content = b'{"base_model_name_or_path": "/tmp/base", "note": "\\ud800"}'
    add(law.current, "adapter_config.json", content)
    rows = Client().get("/api/models/olive/law/tree/main").json()
    return next(row["lfs"]["oid"] for row in rows if row["path"] == "adapter_config.json")


def test_a_config_with_half_a_character_is_handed_out(config: str, client: Client) -> None:
    answer = client.get("/olive/law/resolve/main/adapter_config.json")
    told = json.loads(b"".join(answer))
    assert told == {"base_model_name_or_path": "lab/tiny", "note": "?"}


def test_what_is_handed_out_can_be_copied_by_its_hash(olive: Hub, config: str) -> None:
    hub = Hub(olive.client, olive.token, "olive/law")
    copied = hub.commit(
        deleted("adapter_model.safetensors"), pointer("copy/adapter_config.json", config)
    )
    assert copied.status_code == 200, copied.content
    path = f"/olive/law/resolve/{copied.json()['commitOid']}/copy/adapter_config.json"
    assert hashlib.sha256(b"".join(hub.ask("GET", path))).hexdigest() == config
    other = hub.commit(pointer("more.json", "0" * 64))
    assert "named by its hash but not sent" in message(other, 400)


# --- much of something -----------------------------------------------------------------------


def test_a_card_of_many_bases_is_soon_checked(
    tiny: Foundation, client: Client, django_assert_max_num_queries: Any
) -> None:
    card = f"---\nbase_model: {json.dumps([f'no/base-{n}' for n in range(1000)])}\n---\n"
    with django_assert_max_num_queries(150):
        answer = client.post("/api/validate-yaml", {"content": card}, "application/json")
    assert len(answer.json()["errors"]) == 20


def test_a_file_is_found_without_the_texts_of_all_versions(law: Vector, client: Client) -> None:
    assert law.current is not None
    for revision in ("main", law.current.commit):
        address = f"/olive/law/resolve/{revision}/adapter_model.safetensors"
        with CaptureQueriesContext(connection) as asked:
            assert client.head(address).status_code == 200
        of_all = [each["sql"] for each in asked if '"number" IS NULL' in each["sql"]]
        assert not [sql for sql in of_all if "layers" in sql or "card" in sql]
        assert revision != "main" or not of_all


def test_a_vector_is_found_without_looking_at_all(law: Vector, client: Client) -> None:
    with CaptureQueriesContext(connection) as asked:
        assert client.get("/api/models/olive/law").status_code == 200
    of_vectors = [each["sql"] for each in asked if 'FROM "vectors_vector"' in each["sql"]]
    assert of_vectors
    assert not [sql for sql in of_vectors if " LIKE " in sql]
    assert client.get("/api/models/Olive/LAW").json()["id"] == "olive/law"
