"""Ranges, validators, memory and clients that go away, against a live uvicorn."""

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from tests.vectors.live import Site, running
from vectors.storage.base import Storage, blob_key

MIB = 1 << 20
SIZE = 3 * MIB + 77


def numbered(start: int, stop: int) -> bytes:
    return bytes(place % 256 for place in range(start, stop))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data = tmp_path_factory.mktemp("downloads")
    with running(data, ARMORY_BLOBS=str(data / "blobs")) as found:
        found.data = data  # type: ignore[attr-defined]
        yield found


def ask(
    site: Site, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=names)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def history(site: Site) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = json.loads(ask(site, "/t/history")[2])
    return found


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=5-1048580", 5, 1048581),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes=100-{SIZE + 1000}", 100, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-500", SIZE - 500, SIZE),
        (f"bytes=-{SIZE + 5}", 0, SIZE),
        ("Bytes = 7 - 9", 7, 10),
    ],
)
def test_one_range(site: Site, asked: str, start: int, stop: int) -> None:
    status, headers, body = ask(site, f"/t/ranged/{SIZE}", Range=asked)
    assert status == 206
    assert headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert headers["content-length"] == str(stop - start)
    assert body == numbered(start, stop)


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-4,10-14",  # several: the whole is allowed
        "bytes=5-4",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes=٣-٤",
        "items=0-4",
        "0-4",
        "bytes=" + "9" * 40 + "-",
        "",
    ],
)
def test_the_whole_when_it_is_no_single_range(site: Site, asked: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    connection.putrequest("GET", "/t/ranged/1000")
    connection.putheader("Range", asked.encode())
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, numbered(0, 1000))
    assert answer.headers["Content-Range"] is None
    connection.close()


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
def test_not_satisfiable(site: Site, asked: str) -> None:
    status, headers, body = ask(site, "/t/ranged/1000", Range=asked)
    assert (status, body) == (416, b"")
    assert headers["content-range"] == "bytes */1000"
    assert headers["content-length"] == "0"


def test_nothing_of_nothing(site: Site) -> None:
    assert ask(site, "/t/ranged/0")[::2] == (200, b"")
    assert ask(site, "/t/ranged/0", Range="bytes=0-")[0] == 416
    assert ask(site, "/t/ranged/0", Range="bytes=-5")[0] == 416


def test_headers(site: Site) -> None:
    status, headers, body = ask(site, f"/t/ranged/{SIZE}", Accept_Encoding="gzip")
    assert (status, body) == (200, numbered(0, SIZE))
    assert headers["content-length"] == str(SIZE)
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"] == '"the-etag"'
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"] == 'attachment; filename="model.safetensors"'
    assert headers["x-accel-buffering"] == "no"
    assert "no-transform" in headers["cache-control"]
    assert not {"content-encoding", "transfer-encoding", "set-cookie"} & set(headers)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        (
            "%E6%A8%A1%E5%9E%8B%201.zip",
            "attachment; filename=\"__ 1.zip\"; filename*=UTF-8''%E6%A8%A1%E5%9E%8B%201.zip",
        ),
        (
            "a%22b%5Cc%0D%0AX-Evil:1",
            "attachment; filename=\"a_b_cX-Evil:1\"; filename*=UTF-8''a%22b%5CcX-Evil%3A1",
        ),
        ("sub/folder/file.txt", 'attachment; filename="file.txt"'),
        ("sub/", 'attachment; filename="download"'),
    ],
)
def test_file_names(site: Site, name: str, header: str) -> None:
    found = ask(site, f"/t/ranged/5?name={name}")[1]
    assert found["content-disposition"] == header
    assert "x-evil" not in found


def test_head_computes_nothing(site: Site) -> None:
    before = history(site)
    status, headers, body = ask(site, f"/t/ranged/{1 << 40}", "HEAD", Range="bytes=0-4")
    assert (status, body) == (200, b"")  # a Range is for GET
    assert headers["content-length"] == str(1 << 40)
    assert headers["etag"] == '"the-etag"'
    assert ask(site, f"/t/whole/{1 << 40}", "HEAD")[1]["content-length"] == str(1 << 40)
    assert history(site) == before


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"the-etag"', 206),
        ('W/"the-etag"', 200),  # strong comparison only
        ('"another"', 200),
        ("the-etag", 200),
        ("Tue, 24 Nov 2026 04:53:52 GMT", 200),  # a date never vouches
    ],
)
def test_if_range(site: Site, condition: str, status: int) -> None:
    answer = ask(site, "/t/ranged/1000", Range="bytes=10-19", If_Range=condition)
    assert answer[0] == status
    assert answer[2] == (numbered(10, 20) if status == 206 else numbered(0, 1000))


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"the-etag"', 304),
        ('W/"the-etag"', 304),
        ('"a", "the-etag"', 304),
        ("*", 304),
        ('"another"', 206),
        ("the-etag", 206),
    ],
)
def test_if_none_match(site: Site, condition: str, status: int) -> None:
    for method in ("GET", "HEAD"):
        answer = ask(site, "/t/ranged/9", method, Range="bytes=2-5", If_None_Match=condition)
        assert answer[0] == (200 if status == 206 and method == "HEAD" else status)
        if status == 304:
            assert answer[2] == b""
            assert answer[1]["etag"] == '"the-etag"'
            assert "content-length" not in answer[1]
            assert "content-type" not in answer[1]


def test_without_ranges(site: Site) -> None:
    status, headers, body = ask(site, f"/t/whole/{SIZE}", Range="bytes=5-9")
    assert (status, body) == (200, numbered(0, SIZE))
    assert headers["accept-ranges"] == "none"
    assert headers["content-length"] == str(SIZE)
    assert "filename*=UTF-8''%E5%85%A8%E9%83%A8.zip" in headers["content-disposition"]


def test_too_short_ends_the_connection(site: Site) -> None:
    """A body that is not as long as announced must not look like a complete one."""
    with pytest.raises(http.client.IncompleteRead):
        ask(site, f"/t/broken/{SIZE}")


def next_closed(site: Site, before: int) -> int:
    """How many pieces the next iterator had made when it was closed."""
    deadline = time.monotonic() + 30
    while len(closed := history(site)["closed"]) == before:
        assert time.monotonic() < deadline, "the iterator was never closed"
        time.sleep(0.05)
    return int(closed[-1])


def test_a_client_that_goes_away_closes_the_iterator(site: Site) -> None:
    before = len(history(site)["closed"])
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as client:
        client.sendall(b"GET /t/ranged/10000000000?pause=0.01 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = 0
        while got < 2 * MIB:  # the head alone leaves before the iterator is opened
            got += len(client.recv(100_000))
    assert next_closed(site, before) < 200


def test_a_client_that_goes_away_at_once(site: Site) -> None:
    """Whatever was opened by then is closed; with luck nothing was."""
    for _time in range(10):
        with socket.create_connection(("127.0.0.1", site.port), timeout=30) as client:
            client.sendall(b"GET /t/ranged/10000000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    deadline = time.monotonic() + 30
    while len((found := history(site))["opened"]) != len(found["closed"]):
        assert time.monotonic() < deadline, "an iterator was never closed"
        time.sleep(0.05)


def test_no_more_than_a_piece_ahead(site: Site) -> None:
    """A client that does not read holds back what is computed."""
    before = len(history(site)["closed"])
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        client.connect(("127.0.0.1", site.port))
        client.sendall(b"GET /t/ranged/10000000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = 0
        while got < 10_000:
            got += len(client.recv(1000))
        time.sleep(1)
    assert next_closed(site, before) <= 12  # the system's own buffers hold a few MiB


@pytest.fixture(scope="module")
def large(site: Site) -> tuple[str, int, str]:
    """A stored file of 300 MB: its hash, size and path."""
    block = hashlib.shake_256(b"block").digest(MIB)
    size = 300 * MIB
    digest = hashlib.sha256()
    path = site.data / "large"  # type: ignore[attr-defined]
    with path.open("wb") as file:
        for _number in range(size // MIB):
            digest.update(block)
            file.write(block)
    blob: Path = site.data / "blobs" / blob_key(digest.hexdigest())  # type: ignore[attr-defined]
    blob.parent.mkdir(parents=True)
    path.rename(blob)
    return digest.hexdigest(), size, str(blob)


def drain(site: Site, path: str) -> tuple[int, str, int]:
    """Download; bytes, their SHA-256, and by how much the server's memory had grown at most."""
    before = peak = site.memory()
    digest, got = hashlib.sha256(), 0
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
    connection.request("GET", path)
    answer = connection.getresponse()
    while piece := answer.read(4 * MIB):
        digest.update(piece)
        got += len(piece)
        peak = max(peak, site.memory())
    connection.close()
    return got, digest.hexdigest(), peak - before


def test_memory_stays_bounded(site: Site, large: tuple[str, int, str]) -> None:
    sha256, size, path = large
    ask(site, f"/t/ranged/{SIZE}")  # warm
    got, digest, grown = drain(site, f"/t/blob/{sha256}/{size}")
    assert (got, digest) == (size, sha256)
    assert grown < 40 * MIB
    # The bound is one that the obvious way would break: a FileResponse is read whole.
    assert drain(site, f"/t/naive?path={path}")[2] > 150 * MIB


def test_resume(site: Site, large: tuple[str, int, str]) -> None:
    sha256, size, _path = large
    url = f"/t/blob/{sha256}/{size}"
    cut = 123_456_789
    digest = hashlib.sha256(ask(site, url, Range=f"bytes=0-{cut - 1}")[2])
    answer = ask(site, url, Range=f"bytes={cut}-", If_Range=f'"{sha256}"')
    digest.update(answer[2])
    assert (answer[0], digest.hexdigest()) == (206, sha256)


# --- without a live server -------------------------------------------------------------------


@pytest.mark.urls("tests.vectors.urls")
def test_the_synchronous_way(client: Client) -> None:
    """Under WSGI and in the tests of other pages the same views answer."""
    answer = client.get("/t/ranged/1000", headers={"Range": "bytes=5-9"})
    assert (answer.status_code, answer.getvalue()) == (206, numbered(5, 10))
    assert client.get("/t/ranged/1000", headers={"If-None-Match": "*"}).status_code == 304
    assert client.head("/t/ranged/1000")["Content-Length"] == "1000"


@pytest.mark.urls("tests.vectors.urls")
def test_a_stored_file_comes_from_this_very_site(
    client: Client, any_storage: Storage, tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(b"content").hexdigest()
    (tmp_path / "file").write_bytes(b"content")
    any_storage.put(tmp_path / "file", sha256)
    assert client.get(f"/t/blob/{sha256}/7").getvalue() == b"content"
    assert client.head(f"/t/blob/{sha256}/7")["ETag"] == f'"{sha256}"'
    known = {"If-None-Match": "*"}
    assert client.get(f"/t/blob/{sha256}/7", headers=known).status_code == 304
