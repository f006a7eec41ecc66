"""Both storages behave alike; then what is special to each."""

import errno
import fcntl
import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.vectors.s3 import client_of
from vectors.errors import Refusal
from vectors.storage import s3, s3source
from vectors.storage.base import Storage, blob_key
from vectors.storage.current import storage
from vectors.storage.local import LocalStorage
from vectors.tensorfile.errors import TensorFileError
from vectors.tensorfile.source import read_bytes

MIB = 1 << 20
PART = 5 * MIB  # the smallest that S3 takes


def pattern(length: int, seed: int = 1) -> bytes:
    """Bytes in which every place looks different."""
    return hashlib.shake_256(f"{seed}".encode()).digest(min(length, 65_521)) * (
        length // 65_521 + 1
    )


def data_of(length: int, seed: int = 1) -> bytes:
    return pattern(length, seed)[:length]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def upload(kept: Storage, name: str, data: bytes, order: list[int] | None = None) -> str:
    """Send ``data`` in parts as the site would (not by URL), and complete it; the handle."""
    handle = kept.begin(name, len(data))
    pieces = [data[start : start + PART] for start in range(0, len(data), PART)]
    etags = {}
    for number in order or range(1, len(pieces) + 1):
        piece = pieces[number - 1]
        halves = iter([piece[: len(piece) // 2], piece[len(piece) // 2 :]])
        etags[number] = kept.write_part(name, handle, number, (number - 1) * PART, halves)
    kept.complete(name, handle, sorted(etags.items()))
    return handle


def test_parts_in_any_order_become_one_blob(any_storage: Storage) -> None:
    data = data_of(2 * PART + 7)
    handle = upload(any_storage, "one", data, order=[3, 1, 2])
    staged = any_storage.open_staged("one")
    assert staged.size == len(data)
    assert read_bytes(staged, PART - 3, PART + 3) == data[PART - 3 : PART + 3]
    staged.close()
    assert any_storage.size(sha(data)) is None

    any_storage.promote("one", sha(data))
    assert any_storage.size(sha(data)) == len(data)
    source = any_storage.open(sha(data))
    assert read_bytes(source) == data
    source.close()
    with pytest.raises(Refusal, match="no longer here"):
        any_storage.open_staged("one")

    # each step again: nothing changes
    any_storage.promote("one", sha(data))
    any_storage.abort("one", handle)
    assert any_storage.size(sha(data)) == len(data)


def test_a_part_sent_again_replaces_the_first(any_storage: Storage) -> None:
    data = data_of(PART + 5)
    handle = any_storage.begin("again", len(data))
    any_storage.write_part("again", handle, 1, 0, iter([data_of(PART, seed=9)]))
    last = any_storage.write_part("again", handle, 2, PART, iter([data[PART:]]))
    etag = any_storage.write_part("again", handle, 1, 0, iter([data[:PART]]))
    any_storage.complete("again", handle, [(1, etag), (2, last)])
    any_storage.complete("again", handle, [(1, etag), (2, last)])
    source = any_storage.open_staged("again")
    assert sha(read_bytes(source)) == sha(data)
    source.close()


def test_promoting_bytes_that_are_there_already(any_storage: Storage) -> None:
    data = data_of(1000)
    upload(any_storage, "first", data)
    upload(any_storage, "second", data)
    any_storage.promote("first", sha(data))
    any_storage.promote("second", sha(data))
    assert any_storage.size(sha(data)) == 1000
    with pytest.raises(Refusal):
        any_storage.open_staged("second")


def test_put_copies(any_storage: Storage, tmp_path: Path) -> None:
    data = data_of(3 * MIB + 1)
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    any_storage.put(path, sha(data))
    with path.open("r+b") as file:  # edited in place: a hard link would change too
        file.write(b"other")
    source = any_storage.open(sha(data))
    assert read_bytes(source) == data
    source.close()
    any_storage.put(path, sha(data))
    with pytest.raises(Refusal, match="SHA-256"):
        any_storage.put(path, sha(b"something else"))
    assert any_storage.size(sha(b"something else")) is None


def test_an_empty_file_is_a_blob(any_storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    any_storage.put(tmp_path / "empty", sha(b""))
    source = any_storage.open(sha(b""))
    assert (source.size, read_bytes(source)) == (0, b"")
    source.close()


def test_what_is_not_there(any_storage: Storage) -> None:
    unknown = sha(b"unknown")
    assert any_storage.size(unknown) is None
    with pytest.raises(Refusal, match="missing from storage"):
        any_storage.open(unknown)
    with pytest.raises(Refusal, match="no longer here"):
        any_storage.promote("never begun", unknown)
    any_storage.delete(unknown)
    any_storage.abort("never begun", "")
    with pytest.raises(ValueError, match="SHA-256"):
        any_storage.size("../../etc/passwd")


def test_delete_and_abort(any_storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    any_storage.put(tmp_path / "file", sha(b"content"))
    any_storage.delete(sha(b"content"))
    assert any_storage.size(sha(b"content")) is None

    handle = any_storage.begin("dropped", 10)
    any_storage.abort("dropped", handle)
    with pytest.raises(Refusal):
        any_storage.write_part("dropped", handle, 1, 0, iter([b"0123456789"]))
    handle = upload(any_storage, "whole", b"0123456789")
    any_storage.abort("whole", handle)
    with pytest.raises(Refusal):
        any_storage.open_staged("whole")


def test_reads_past_the_end_are_refused(any_storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    any_storage.put(tmp_path / "file", sha(b"content"))
    source = any_storage.open(sha(b"content"))
    with pytest.raises(TensorFileError):
        read_bytes(source, 3, 8)
    source.close()


def test_tidy_drops_what_is_old_and_unknown(any_storage: Storage) -> None:
    upload(any_storage, "left", b"left behind")
    any_storage.begin("open", 10)
    upload(any_storage, "known", b"somebody's")
    now = datetime.now(UTC)
    assert any_storage.tidy(now - timedelta(hours=1), lambda _name: False) == 0
    assert any_storage.tidy(now + timedelta(hours=1), lambda name: name == "known") == 2
    any_storage.open_staged("known").close()
    with pytest.raises(Refusal):
        any_storage.open_staged("left")


# --- local -----------------------------------------------------------------------------------


def test_local_uploads_are_sparse(local_storage: Storage, tmp_path: Path) -> None:
    local_storage.begin("huge", 1 << 40)
    status = (tmp_path / "blobs/staging/huge").stat()
    assert status.st_size == 1 << 40
    assert status.st_blocks * 512 < MIB


def test_nobody_writes_after_complete(local_storage: Storage) -> None:
    """A late part must not change bytes that were hashed."""
    upload(local_storage, "late", b"0123456789")
    with pytest.raises(Refusal):
        local_storage.write_part("late", "", 1, 0, iter([b"poisoned!!"]))


def test_complete_waits_for_the_writer(local_storage: Storage) -> None:
    local_storage.begin("slow", 4)
    half_way, go_on = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"ab"
        half_way.set()
        go_on.wait(10)
        yield b"cd"

    writer = threading.Thread(target=local_storage.write_part, args=("slow", "", 1, 0, chunks()))
    writer.start()
    assert half_way.wait(10)
    completer = threading.Thread(target=local_storage.complete, args=("slow", "", []))
    completer.start()
    completer.join(0.2)
    assert completer.is_alive()
    go_on.set()
    writer.join(10)
    completer.join(10)
    source = local_storage.open_staged("slow")
    assert read_bytes(source) == b"abcd"
    source.close()


def test_a_writer_that_waited_too_long_is_refused(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before complete, locked after it: the file is the blob-to-be by then."""
    local_storage.begin("raced", 4)
    lock = fcntl.flock

    def complete_first(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        local_storage.complete("raced", "", [])
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", complete_first)
    with pytest.raises(Refusal):
        local_storage.write_part("raced", "", 1, 0, iter([b"late"]))
    source = local_storage.open_staged("raced")
    assert read_bytes(source) == b"\0\0\0\0"
    source.close()


def test_a_full_disk_is_said(local_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(local_storage, "whole", b"0123456789")
    local_storage.begin("open", 10)

    def no_room(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room)
    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(Refusal, match="disk of this site is full"):
        local_storage.write_part("open", "", 1, 0, iter([b"0123456789"]))
    with pytest.raises(Refusal, match="disk of this site is full"):
        local_storage.promote("whole", sha(b"0123456789"))
    monkeypatch.undo()


def test_a_put_that_breaks_leaves_nothing(
    local_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")

    def no_room(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(Refusal, match="full"):
        local_storage.put(tmp_path / "file", sha(b"content"))
    monkeypatch.undo()
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_local_urls_and_room(local_storage: Storage) -> None:
    assert local_storage.part_url("id", "", 1, 5) is None
    assert local_storage.download_url(sha(b""), "name") is None
    assert (local_storage.free_bytes() or 0) > 0
    assert isinstance(storage(), LocalStorage)
    assert storage() is local_storage


# --- S3 --------------------------------------------------------------------------------------


def put_to(url: str, data: bytes) -> tuple[int, str]:
    request = urllib.request.Request(url, data=data, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["ETag"].strip('"')
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_presigned_parts(s3_storage: Storage) -> None:
    data = data_of(PART + 100)
    handle = s3_storage.begin("signed", len(data))

    def url(number: int, size: int) -> str:
        found = s3_storage.part_url("signed", handle, number, size)
        assert found is not None
        return found

    assert put_to(url(1, PART), data[: PART - 1])[0] == 403  # the length is signed
    assert put_to(url(2, 100).replace("partNumber=2", "partNumber=1"), data[PART:])[0] == 403
    # The server keeps all copies of a part; the client's ETag chooses.
    for seed in (5, 6):
        assert put_to(url(1, PART), data_of(PART, seed))[0] == 200
    status, first = put_to(url(1, PART), data[:PART])
    _status, second = put_to(url(2, 100), data[PART:])
    assert status == 200
    staged = s3_storage.staged_parts("signed", handle) or []
    assert {(part.number, part.size) for part in staged} == {(1, PART), (2, 100)}
    assert first in {part.etag for part in staged if part.number == 1}
    with pytest.raises(Refusal, match="not the ones that arrived"):
        s3_storage.complete("signed", handle, [(1, "0" * 32), (2, second)])
    s3_storage.complete("signed", handle, [(1, first), (2, second)])
    source = s3_storage.open_staged("signed")
    assert sha(read_bytes(source)) == sha(data)
    source.close()


def test_presigned_download(s3_storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    s3_storage.put(tmp_path / "file", sha(b"content"))
    url = s3_storage.download_url(sha(b"content"), "模型.safetensors") or ""
    request = urllib.request.Request(url, headers={"Range": "bytes=2-"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 206
        assert answer.read() == b"ntent"
        assert "%E6%A8%A1%E5%9E%8B.safetensors" in answer.headers["Content-Disposition"]


def test_large_blobs_are_copied_in_parts(
    s3_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "COPY_LIMIT", PART)
    monkeypatch.setattr(s3, "COPY_PART", PART)
    data = data_of(2 * PART + 11)
    upload(s3_storage, "large", data)
    s3_storage.promote("large", sha(data))
    source = s3_storage.open(sha(data))
    assert sha(read_bytes(source)) == sha(data)
    source.close()


@pytest.fixture
def counted(
    s3_storage: Storage, s3_endpoint: str, s3_bucket: str
) -> tuple[s3source.S3Source, bytes, list[str]]:
    """A source over 40 MiB, its bytes, and the ranges that were asked for."""
    data = data_of(40 * MIB)
    key = f"blobs/{blob_key(sha(data))}"
    client = client_of(s3_endpoint)
    client.put_object(Bucket=s3_bucket, Key=key, Body=data)
    asked: list[str] = []
    get = client.get_object

    def get_object(**params: Any) -> Any:
        asked.append(params["Range"])
        return get(**params)

    client.get_object = get_object
    return s3source.S3Source(client, s3_bucket, key, len(data)), data, asked


def test_small_reads_share_requests(
    counted: tuple[s3source.S3Source, bytes, list[str]],
) -> None:
    source, data, asked = counted
    step = 64 << 10
    got = hashlib.sha256()
    for offset in range(0, len(data), step):
        got.update(read_bytes(source, offset, min(offset + step, len(data))))
    assert got.hexdigest() == sha(data)
    assert len(asked) <= 8  # windows of 1, 4, 8, 8, … MiB
    source.close()


def test_interleaved_reads_share_requests(
    counted: tuple[s3source.S3Source, bytes, list[str]],
) -> None:
    source, data, asked = counted
    step, quarter = 256 << 10, 10 * MIB
    for offset in range(0, quarter, step):
        for start in (0, quarter, 2 * quarter, 3 * quarter):
            at = start + offset
            assert read_bytes(source, at, at + step) == data[at : at + step]
    assert len(asked) <= 16
    assert len(source._windows) <= s3source.WINDOWS


def test_threads_share_windows(counted: tuple[s3source.S3Source, bytes, list[str]]) -> None:
    source, data, asked = counted
    wrong: list[int] = []

    def read(start: int) -> None:
        for offset in range(start, start + 8 * MIB, 128 << 10):
            if read_bytes(source, offset, offset + (128 << 10)) != data[offset:][: 128 << 10]:
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(start,)) for start in (0, 0, 9 * MIB, 20 * MIB)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(asked) < 40  # of 256 reads


def test_long_reads_go_past_the_windows(
    counted: tuple[s3source.S3Source, bytes, list[str]],
) -> None:
    source, data, asked = counted
    assert read_bytes(source, 5, 30 * MIB) == data[5 : 30 * MIB]
    assert asked == [f"bytes=5-{30 * MIB - 1}"]
    assert source._windows == []


def test_a_broken_connection_goes_on(
    counted: tuple[s3source.S3Source, bytes, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, data, asked = counted
    monkeypatch.setattr(s3source.time, "sleep", lambda _seconds: None)
    get = source._client.get_object

    class Breaking:
        def __init__(self, body: Any) -> None:
            self._body, self._left = body, MIB

        def readinto(self, buffer: memoryview) -> int:
            if self._left <= 0:
                raise ConnectionResetError("reset by peer")
            count: int = self._body.readinto(buffer[: self._left])
            self._left -= count
            return count

        def close(self) -> None:
            self._body.close()

    def get_object(**params: Any) -> Any:
        answer = get(**params)
        return {**answer, "Body": Breaking(answer["Body"])}

    source._client.get_object = get_object
    assert read_bytes(source, 100, 100 + 4 * MIB) == data[100 : 100 + 4 * MIB]
    assert len(asked) == 4

    def dead(**_params: Any) -> Any:
        raise ConnectionRefusedError("refused")

    source._client.get_object = dead
    with pytest.raises(OSError, match="storage did not give"):  # not the file's fault: no Problem
        read_bytes(source, 0, 10)
