"""Files on their way in: parts, resume, refusals, and that nothing is left behind."""

import hashlib
import json
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from tests.people import client_of
from vectors import announced, dropping, uploads
from vectors.errors import Refusal
from vectors.models import Blob, RepositoryFile, Upload, UploadPart, Version
from vectors.storage.base import Storage
from vectors.storage.current import storage
from vectors.tensorfile.source import read_bytes

pytestmark = [
    pytest.mark.urls("tests.vectors.urls"),
    pytest.mark.django_db(transaction=True),
]

MIB = 1 << 20
NAME = "model.safetensors"


def data_of(length: int, seed: int = 1) -> bytes:
    return (hashlib.shake_256(f"{seed}".encode()).digest(1021) * (length // 1021 + 1))[:length]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(uploads, "PART", 1000)
    return 1000


@pytest.fixture
def blobs(local_storage: Storage, tmp_path: Path) -> Iterator[Path]:
    """The folder of the storage; whatever a test does, no staged file may be without a row."""
    yield tmp_path / "blobs"
    staged = {path.stem for path in (tmp_path / "blobs/staging").glob("*")}
    assert staged <= {str(pk) for pk in Upload.objects.values_list("pk", flat=True)}


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def begin(client: Client, files: dict[str, bytes], **more: Any) -> dict[str, Any]:
    announced = [{"path": path, "size": len(data)} for path, data in files.items()]
    answer = client.post("/uploads/", {"files": announced, **more}, content_type="application/json")
    assert answer.status_code == 201, answer.content
    found: dict[str, Any] = answer.json()
    return found


def put(part: dict[str, Any], data: bytes, **headers: str) -> Any:
    """As a script does it: no session."""
    return Client().put(part["url"], data, content_type="application/octet-stream", headers=headers)


def piece_of(upload: dict[str, Any], part: dict[str, Any], data: bytes) -> bytes:
    start = (part["number"] - 1) * upload["part_size"]
    return data[start : start + part["size"]]


def finish(client: Client, upload: dict[str, Any], parts: list[dict[str, Any]]) -> Any:
    return client.post(upload["complete"], {"parts": parts}, content_type="application/json")


def send_all(client: Client, draft: dict[str, Any], files: dict[str, bytes]) -> Version:
    for upload in draft["uploads"]:
        for part in upload["parts"]:
            assert put(part, piece_of(upload, part, files[upload["path"]])).status_code == 200
        assert finish(client, upload, []).status_code == 200
    return Version.objects.get(pk=draft["draft"])


# --- the way of a file -----------------------------------------------------------------------


def test_from_announcement_to_blob(owner_client: Client, blobs: Path, small_parts: int) -> None:
    data = data_of(3500)
    draft = begin(owner_client, {NAME: data})
    assert draft["url"] == f"/drafts/{draft['draft']}"
    [upload] = draft["uploads"]
    assert [part["size"] for part in upload["parts"]] == [1000, 1000, 1000, 500]
    assert upload["received"] == []

    etags = []
    for part in reversed(upload["parts"]):  # any order
        piece = piece_of(upload, part, data)
        answer = put(part, piece, **{"X-Part-SHA256": sha(piece)})
        assert answer.status_code == 200
        etags.append({"number": part["number"], "etag": answer["ETag"]})
    answer = finish(owner_client, upload, etags)
    assert answer.json() == {
        "state": "received",
        "draft": {"url": draft["url"], "state": "received"},
    }
    assert finish(owner_client, upload, etags).json() == answer.json()  # idempotent

    row = Upload.objects.get()
    seen: list[int] = []
    blob = uploads.seal(row, on_bytes=seen.append)
    assert (blob.sha256, blob.size, sum(seen)) == (sha(data), 3500, 3500)
    assert files_in(blobs) == [f"{sha(data)[:2]}/{sha(data)}"]
    assert uploads.seal(row) == blob
    source = storage().open(blob.sha256)
    assert read_bytes(source) == data
    source.close()


def test_s3_takes_the_parts_itself(
    owner_client: Client, s3_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART", 5 * MIB)
    data = data_of(10 * MIB + 3)
    draft = begin(owner_client, {NAME: data})
    [upload] = draft["uploads"]

    def send(part: dict[str, Any], piece: bytes) -> str:
        request = urllib.request.Request(part["url"], data=piece, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.headers["ETag"])

    first, second, third = upload["parts"]
    send(third, piece_of(upload, third, data))
    send(first, data_of(5 * MIB, seed=2))  # a first try with other bytes: the server keeps both
    etag = send(first, piece_of(upload, first, data))
    resumed = owner_client.get(f"/uploads/drafts/{draft['draft']}").json()["uploads"][0]
    assert resumed["received"] == [1, 3]
    assert [part["number"] for part in resumed["parts"]] == [2]
    assert finish(owner_client, upload, []).status_code == 409
    send(resumed["parts"][0], piece_of(upload, second, data))
    # The browser saw one ETag only; the others are known to storage.
    answer = finish(owner_client, upload, [{"number": 1, "etag": etag}])
    assert answer.json()["draft"]["state"] == "received"
    assert finish(owner_client, upload, []).status_code == 200
    assert uploads.seal(Upload.objects.get()).sha256 == sha(data)
    assert s3_storage.size(sha(data)) == len(data)
    assert put({"url": f"/uploads/{upload['id']}/parts/1"}, b"").status_code == 403


def test_a_join_that_was_not_noted(
    owner_client: Client, any_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between storage and database: the next call finds it done."""
    files = [(NAME, 10)]
    version = uploads.start_draft(owner=User.objects.get(username="olive"), files=files)
    upload = version.uploads.get()
    key, handle = str(upload.pk), upload.storage_handle
    etag = any_storage.write_part(key, handle, 1, 0, iter([b"0123456789"]))
    any_storage.complete(key, handle, [(1, etag)])
    assert uploads.complete(upload).state == Upload.State.RECEIVED


def test_the_draft_waits_for_its_last_file(owner_client: Client, blobs: Path) -> None:
    files = {NAME: b"weights", "README.md": b"# card"}
    draft = begin(owner_client, files)
    version = Version.objects.get(pk=draft["draft"])
    for upload, state in zip(draft["uploads"], ["uploading", "received"], strict=True):
        put(upload["parts"][0], files[upload["path"]])
        assert finish(owner_client, upload, []).json()["draft"]["state"] == state
        version.refresh_from_db()
        assert version.state == state


def test_resume(owner_client: Client, blobs: Path, small_parts: int) -> None:
    data = data_of(2500)
    draft = begin(owner_client, {NAME: data, "config.json": b"{}"})
    config, weights = draft["uploads"]
    put(config["parts"][0], b"{}")
    finish(owner_client, config, [])
    put(weights["parts"][1], data[1000:2000])
    Upload.objects.update(expires=timezone.now())

    resumed = owner_client.get(f"/uploads/drafts/{draft['draft']}").json()
    config, weights = resumed["uploads"]
    assert (config["state"], config["parts"], config["received"]) == ("received", [], [1])
    assert weights["received"] == [2]
    assert [part["number"] for part in weights["parts"]] == [1, 3]
    assert Upload.objects.get(path=NAME).expires > timezone.now() + timedelta(days=6)
    version = send_all(owner_client, {**resumed, "uploads": [weights]}, {NAME: data})
    assert version.state == Version.State.RECEIVED
    assert uploads.seal(version.uploads.get(path=NAME)).sha256 == sha(data)


def test_parts_sent_again(owner_client: Client, blobs: Path, small_parts: int) -> None:
    data = data_of(1500)
    draft = begin(owner_client, {NAME: data})
    [upload] = draft["uploads"]
    for _time in range(3):
        for part in upload["parts"]:
            assert put(part, piece_of(upload, part, data)).status_code == 200
    assert UploadPart.objects.count() == 2
    finish(owner_client, upload, [])
    # A late copy, after the end: said yes to, and ignored.
    assert put(upload["parts"][0], data_of(1000, seed=7)).status_code == 200
    assert uploads.seal(Upload.objects.get()).sha256 == sha(data)


# --- parts that are refused ------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 999, 1001, 5000])
def test_a_part_of_the_wrong_length(
    owner_client: Client, blobs: Path, small_parts: int, length: int
) -> None:
    [upload] = begin(owner_client, {NAME: data_of(1500)})["uploads"]
    answer = put(upload["parts"][0], b"x" * length)
    assert answer.status_code == 400
    assert f"must have 1000 bytes; {length} came" in answer.json()["error"]
    assert not UploadPart.objects.exists()


class Chunked:
    """A body whose length nobody announced."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int, /) -> bytes:
        piece, self._data = self._data[:size], self._data[size:]
        return piece


@pytest.mark.parametrize("length", [999, 1001])
def test_an_unannounced_length_is_counted(
    owner: User, blobs: Path, small_parts: int, length: int
) -> None:
    upload = uploads.start_draft(owner=owner, files=[(NAME, 1500)]).uploads.get()
    with pytest.raises(Refusal, match=f"{length} came"):
        uploads.receive_part(upload=upload, number=1, stream=Chunked(b"x" * length))


def test_a_damaged_part_no_longer_counts(
    owner_client: Client, blobs: Path, small_parts: int
) -> None:
    data = data_of(1500)
    [upload] = begin(owner_client, {NAME: data})["uploads"]
    put(upload["parts"][0], data[:1000])
    answer = put(upload["parts"][0], data_of(1000, 2), **{"X-Part-SHA256": sha(data[:1000])})
    assert answer.status_code == 400
    assert "damaged on the way" in answer.json()["error"]
    assert not UploadPart.objects.exists()  # what was there has been overwritten
    answer = finish(owner_client, upload, [])
    assert answer.status_code == 409
    assert "2 of 2 parts" in answer.json()["error"]


def test_signatures(
    owner_client: Client, blobs: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    [upload] = begin(owner_client, {NAME: data_of(1500)})["uploads"]
    first, second = upload["parts"]
    stolen = first["url"].replace("/parts/1?", "/parts/2?")
    assert put({"url": stolen}, data_of(500)).status_code == 403
    assert put({"url": second["url"].split("?")[0]}, data_of(500)).status_code == 403
    monkeypatch.setattr(uploads, "URL_LIFETIME", timedelta(seconds=-5))
    answer = put(first, data_of(1000))
    assert answer.status_code == 403
    assert "expired" in answer.json()["error"]
    assert not UploadPart.objects.exists()


def test_the_whole_must_have_the_announced_hash(owner_client: Client, blobs: Path) -> None:
    announced = [{"path": NAME, "size": 7, "sha256": sha(b"weights").upper()}]
    for sent in (b"weighed", b"weights"):
        draft = owner_client.post(
            "/uploads/", {"files": announced}, content_type="application/json"
        ).json()
        version = send_all(owner_client, draft, {NAME: sent})
        upload = version.uploads.get()
        if sent == b"weights":
            assert uploads.seal(upload).sha256 == sha(b"weights")
        else:
            with pytest.raises(Refusal, match=r"model\.safetensors does not have the SHA-256"):
                uploads.seal(upload)
            assert not Blob.objects.exists()


# --- who may ---------------------------------------------------------------------------------


def test_only_the_owner(
    owner_client: Client, stranger: User, stranger_client: Client, blobs: Path
) -> None:
    draft = begin(owner_client, {NAME: b"weights"})
    [upload] = draft["uploads"]
    put(upload["parts"][0], b"weights")
    page = f"/uploads/drafts/{draft['draft']}"
    for client, status in ((stranger_client, 404), (Client(), 403)):
        assert client.get(page).status_code == status
        assert client.delete(page).status_code == status
        assert finish(client, upload, []).status_code == status
        assert "error" in client.get(page).json()
    assert Client().post("/uploads/", {}, content_type="application/json").status_code == 403
    answer = Client().post("/uploads/form", {"files": SimpleUploadedFile(NAME, b"weights")})
    assert answer.status_code == 302
    assert answer["Location"].startswith("/sign-in")
    assert Upload.objects.get().state == Upload.State.OPEN


def test_csrf(owner: User, owner_client: Client, blobs: Path, settings: Any) -> None:
    settings.CSRF_FAILURE_VIEW = "tests.vectors.urls.csrf_failure"  # ours needs the whole site
    [upload] = begin(owner_client, {NAME: b"weights"})["uploads"]
    careful = Client(enforce_csrf_checks=True)
    careful.cookies = client_of(owner).cookies
    for url in ("/uploads/", "/uploads/form", upload["complete"]):
        assert careful.post(url, {}, content_type="application/json").status_code == 403
    kind = "application/octet-stream"
    assert careful.put(upload["parts"][0]["url"], b"weights", content_type=kind).status_code == 200


def test_the_next_version_of_a_vector(
    owner_client: Client, stranger_client: Client, blobs: Path
) -> None:
    for client in (owner_client, stranger_client):
        answer = client.post(
            "/uploads/",
            {"files": [{"path": NAME, "size": 7}], "vector": "olive/not-there"},
            content_type="application/json",
        )
        assert answer.status_code == 404
        assert "olive/not-there" in answer.json()["error"]
    assert not Version.objects.exists()


# --- what may be announced -------------------------------------------------------------------

LARGE = 201 * 10**9


@pytest.mark.parametrize(
    ("files", "status", "sentence"),
    [
        ([("pytorch_model.bin", 5)], 400, "safetensors only"),
        ([(NAME, 5), ("training_args.bin", 5)], 400, "training_args.bin is not accepted"),
        ([("../model.safetensors", 5)], 400, "not a usable file name"),
        ([("/etc/passwd", 5)], 400, "not a usable file name"),
        ([(NAME, 5), (NAME, 6)], 400, "is there twice"),
        ([(NAME, 0)], 400, "is empty"),
        ([(NAME, -1)], 400, "is empty"),
        ([(NAME, LARGE)], 413, "201.0 GB"),
        ([(NAME, 5), *((f"{n}.txt", 5) for n in range(400))], 413, "401 files"),
        ([], 400, "No files"),
        ([("README.md", 5)], 400, "no weights among the files"),
        ([("adapter_model.safetensors", 5)], 400, "adapter_config.json is missing"),
        ([(NAME, 5, "xyz")], 400, "64 hexadecimal digits"),
        ([(NAME, "5")], 400, "needs a `path`"),
        ([(NAME, True)], 400, "needs a `path`"),
        ([(None, 5)], 400, "needs a `path`"),
    ],
)
def test_refused_before_anything_travels(
    owner_client: Client, blobs: Path, files: list[Any], status: int, sentence: str
) -> None:
    announced = [dict(zip(("path", "size", "sha256"), file, strict=False)) for file in files]
    answer = owner_client.post("/uploads/", {"files": announced}, content_type="application/json")
    assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.json()
    assert not Version.objects.exists()
    assert not Upload.objects.exists()
    assert files_in(blobs) == []


@pytest.mark.parametrize("body", ["", "[]", "{", '{"files": 5}', '{"files": [5]}', "\ud800"])
def test_nonsense(owner_client: Client, blobs: Path, body: str) -> None:
    answer = owner_client.post(
        "/uploads/", body.encode(errors="surrogatepass"), content_type="application/json"
    )
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_full_disk_is_said_before(
    owner: User, local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_storage, "free_bytes", lambda: 10**9)
    with pytest.raises(uploads.TooLarge, match=r"has room for 1\.0 GB"):
        uploads.start_draft(
            owner=owner,
            files=[("model-1.safetensors", 6 * 10**8)] * 1 + [("model-2.safetensors", 6 * 10**8)],
        )
    assert not Upload.objects.exists()


def test_only_so_many_drafts(
    owner_client: Client, buyer: User, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announced, "MAX_DRAFTS", 2)
    drafts = [begin(owner_client, {NAME: b"x" * 10}) for _number in range(2)]
    files = {"files": [{"path": NAME, "size": 10}]}
    answer = owner_client.post("/uploads/", files, content_type="application/json")
    assert answer.status_code == 409
    assert "You have 2 unfinished uploads" in answer.json()["error"]
    assert Version.objects.count() == Upload.objects.count() == 2
    begin(client_of(buyer), {NAME: b"x" * 10})
    # A refused draft is only a note: its bytes are gone.
    Version.objects.filter(pk=drafts[0]["draft"]).update(state=Version.State.REFUSED)
    begin(owner_client, {NAME: b"x" * 10})


def test_a_beginning_that_breaks_leaves_nothing(
    owner: User, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("database gone")

    monkeypatch.setattr(Upload.objects, "bulk_create", broken)
    with pytest.raises(RuntimeError):
        uploads.start_draft(owner=owner, files=[(NAME, 7)])
    assert files_in(blobs) == []
    assert not Version.objects.exists()


def test_part_sizes() -> None:
    assert uploads.part_size_for(1) == 32 * MIB
    assert uploads.part_size_for(20 << 30) == 32 * MIB
    assert uploads.part_size_for((20 << 30) + 1) == 64 * MIB
    largest = Upload(size=200 * 10**9, part_size=uploads.part_size_for(200 * 10**9))
    assert largest.part_count <= 10_000
    small = Upload(size=5, part_size=uploads.part_size_for(5))
    assert (small.part_count, small.part_length(1)) == (1, 5)


# --- sealing again, sharing, dropping --------------------------------------------------------


def received(owner: User, data: bytes, name: str = NAME) -> Upload:
    upload = uploads.start_draft(owner=owner, files=[(name, len(data))]).uploads.get()
    uploads.receive_part(upload=upload, number=1, stream=Chunked(data))
    return uploads.complete(upload)


def test_equal_files_share_a_blob(owner: User, buyer: User, blobs: Path) -> None:
    mine, theirs = received(owner, b"weights"), received(buyer, b"weights")
    assert uploads.seal(mine) == uploads.seal(theirs)
    assert files_in(blobs) == [f"{sha(b'weights')[:2]}/{sha(b'weights')}"]
    uploads.discard(Version.objects.get(owner=owner))
    assert storage().size(sha(b"weights")) == 7
    uploads.discard(Version.objects.get(owner=buyer))
    assert storage().size(sha(b"weights")) is None
    assert not Blob.objects.exists()
    assert files_in(blobs) == []


@pytest.mark.parametrize("moved", [False, True])
def test_sealing_after_a_kill(
    owner: User, any_storage: Storage, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    upload = received(owner, b"weights")
    promote = type(any_storage).promote

    def killed(self: Storage, upload_id: str, sha256: str) -> None:
        if moved:
            promote(self, upload_id, sha256)
        raise SystemExit

    monkeypatch.setattr(type(any_storage), "promote", killed)
    with pytest.raises(SystemExit):
        uploads.seal(upload)
    monkeypatch.undo()
    # Meanwhile a sweep finds the blob, and leaves it: the upload refers to it.
    assert uploads.drop_unreferenced([sha(b"weights")]) == 0
    assert uploads.seal(upload).sha256 == sha(b"weights")
    assert any_storage.size(sha(b"weights")) == 7
    with pytest.raises(Refusal):
        any_storage.open_staged(str(upload.pk))


def test_a_row_without_bytes_is_filled(owner: User, blobs: Path) -> None:
    Blob.objects.create(sha256=sha(b"weights"), size=7)
    uploads.seal(received(owner, b"weights"))
    assert storage().size(sha(b"weights")) == 7


def test_not_sealed_before_it_is_complete(owner: User, blobs: Path) -> None:
    upload = uploads.start_draft(owner=owner, files=[(NAME, 7)]).uploads.get()
    with pytest.raises(uploads.Conflict, match="not arrived"):
        uploads.seal(upload)


def test_discard_over_http(owner_client: Client, blobs: Path, small_parts: int) -> None:
    draft = begin(owner_client, {NAME: data_of(1500), "README.md": b"card"})
    put(draft["uploads"][0]["parts"][0], b"card")
    assert owner_client.delete(f"/uploads/drafts/{draft['draft']}").status_code == 204
    assert files_in(blobs) == []
    assert not Version.objects.exists()
    assert not Upload.objects.exists()
    assert put(draft["uploads"][1]["parts"][0], data_of(1000)).status_code == 400


def test_a_published_version_is_not_discarded(owner: User, blobs: Path) -> None:
    version = Version(pk=1, owner=owner)
    version.save()
    RepositoryFile.objects.create(
        version=version, path=NAME, blob=Blob.objects.create(sha256=sha(b"weights"), size=7)
    )
    assert uploads.drop_unreferenced([sha(b"weights")]) == 0
    uploads.drop_bytes(version)  # a refused draft keeps its row
    assert not Blob.objects.exists()
    assert Version.objects.filter(pk=1).exists()


def test_expiry(owner: User, blobs: Path) -> None:
    fresh = uploads.start_draft(owner=owner, files=[(NAME, 7)])
    stale = uploads.start_draft(owner=owner, files=[(NAME, 7), ("README.md", 4)])
    waiting = received(owner, b"weights")  # complete: its owner may still publish it
    [loose] = uploads.open_uploads(owner=owner, files=[("lfs/object.safetensors", 9)])
    past = timezone.now() - timedelta(minutes=1)
    Upload.objects.filter(version=stale, path=NAME).update(expires=past)
    Upload.objects.filter(pk__in=[waiting.pk, loose.pk]).update(expires=past)
    assert uploads.expire_uploads() == 3
    assert set(Version.objects.all()) == {fresh, waiting.version}
    assert len(files_in(blobs)) == 2
    assert uploads.expire_uploads() == 0


def test_what_a_killed_process_left_is_tidied_up(
    owner: User, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = received(owner, b"weights")
    sealed = uploads.seal(received(owner, b"sealed"))
    storage().begin("5c2f4f4e-7f0f-4a6e-9b53-2f1f6bb0a111", 10)
    (blobs / "staging/put-x").touch()
    Blob.objects.create(sha256=sha(b"forgotten"), size=9)
    monkeypatch.setattr(dropping, "LEFT_STAGED_FOR", timedelta(seconds=-5))
    monkeypatch.setattr(dropping, "UNREFERENCED_FOR", timedelta(seconds=-5))
    uploads.expire_uploads()
    assert files_in(blobs) == sorted(
        [f"{sealed.sha256[:2]}/{sealed.sha256}", f"staging/{kept.pk}.whole"]
    )
    assert list(Blob.objects.all()) == [sealed]


# --- without JavaScript ----------------------------------------------------------------------


def test_the_plain_form(
    owner_client: Client, any_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART", 5 * MIB)
    data = data_of(6 * MIB)  # a temporary file of two parts; the card stays in memory
    answer = owner_client.post(
        "/uploads/form",
        {
            "files": [SimpleUploadedFile(NAME, data), SimpleUploadedFile("README.md", b"# card")],
        },
    )
    version = Version.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == f"/drafts/{version.pk}"
    assert version.state == Version.State.RECEIVED
    hashes = {upload.path: uploads.seal(upload).sha256 for upload in version.uploads.all()}
    assert hashes == {NAME: sha(data), "README.md": sha(b"# card")}


def test_the_plain_form_refuses(owner_client: Client, blobs: Path) -> None:
    answer = owner_client.post("/uploads/form", {"files": SimpleUploadedFile("model.bin", b"x")})
    assert answer["Location"] == "/upload"
    [message] = get_messages(answer.wsgi_request)
    assert "safetensors only" in str(message)
    assert not Version.objects.exists()


def test_the_plain_form_gives_back_what_it_took(
    owner_client: Client, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise Refusal("The disk is full.")

    monkeypatch.setattr(type(storage()), "write_part", full)
    answer = owner_client.post("/uploads/form", {"files": SimpleUploadedFile(NAME, b"weights")})
    assert answer["Location"] == "/upload"
    assert not Version.objects.exists()
    assert files_in(blobs) == []


def test_sentences_are_json(owner_client: Client, blobs: Path) -> None:
    answer = owner_client.get("/uploads/drafts/999")
    assert answer.status_code == 404
    assert answer["Content-Type"] == "application/json"
    assert json.loads(answer.content)["error"].startswith("There is no such upload")
