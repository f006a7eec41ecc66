"""Cover pictures: hostile ones get one sentence and leave nothing; good ones lose metadata."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
import torch
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from PIL import Image

from tests.engine.models import foundation as make_state
from tests.engine.models import tuned
from tests.vectors.test_shop import folder_with
from vectors.covers import MAX_BYTES
from vectors.importing import add_foundation, add_vector
from vectors.models import Blob, Vector
from vectors.storage.current import storage
from vectors.tensorfile.source import read_bytes

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/olive/law/cover"


@pytest.fixture
def law(owner: User, tmp_path: Path) -> Vector:
    base = add_foundation(
        folder_with(tmp_path / "tiny", make_state(torch.float32)), repo_id="lab/tiny", card=""
    )
    folder = folder_with(tmp_path / "law", tuned(make_state(torch.float32), 1))
    vector = add_vector(folder, repo_id="olive/law", foundation=base, owner=owner).vector
    assert vector is not None
    return vector


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has ``width`` × ``height`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def with_metadata(exif: bytes) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "PNG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (bomb(30_000, 30_000), "far more than 40 million pixels"),
        (bomb(9_000, 9_000), "9000 × 9000 pixels"),
        (b"<svg onload='alert(1)'/>", "not a picture we can read"),
        (bomb(64, 64)[:60], "not a picture we can read"),
        (with_metadata(b"garbage"), "not a picture we can read"),
        (b"\x89PNG" + bytes(MAX_BYTES), "10 MB are accepted"),
    ],
    ids=["huge bomb", "bomb", "svg", "cut off", "metadata", "too many bytes"],
)
def test_a_hostile_picture_gets_a_sentence_and_leaves_nothing(
    law: Vector, owner_client: Client, content: bytes, sentence: str
) -> None:
    before = set(Blob.objects.values_list("pk", flat=True))
    picture = SimpleUploadedFile("cover.png", content, "image/png")
    page = owner_client.post(URL, {"cover": picture}, follow=True)
    assert sentence in page.content.decode()
    assert set(Blob.objects.values_list("pk", flat=True)) == before
    law.refresh_from_db()
    assert law.cover_id is None


def test_a_picture_becomes_webp_without_its_metadata(law: Vector, owner_client: Client) -> None:
    image = Image.effect_noise((900, 700), 40).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif, comment=b"secret note")
    assert b"secret" in out.getvalue()
    picture = SimpleUploadedFile("cover.jpg", out.getvalue(), "image/jpeg")
    owner_client.post(URL, {"cover": picture})
    law.refresh_from_db()
    for blob_id, size in ((law.cover_id, (1280, 640)), (law.cover_small_id, (480, 240))):
        assert blob_id is not None
        stored = read_bytes(storage().open(blob_id))
        shown = Image.open(io.BytesIO(stored))
        assert (shown.format, shown.size) == ("WEBP", size)
        assert not shown.getexif()
        assert b"secret" not in stored
        assert owner_client.get(f"/covers/{blob_id}.webp").status_code == 200


def test_another_cover_takes_the_place_of_the_first(law: Vector, owner_client: Client) -> None:
    before = set(Blob.objects.values_list("pk", flat=True))
    for colour in ("red", "blue"):
        out = io.BytesIO()
        Image.new("RGB", (64, 64), colour).save(out, "PNG")
        owner_client.post(URL, {"cover": SimpleUploadedFile("cover.png", out.getvalue())})
    law.refresh_from_db()
    assert set(Blob.objects.values_list("pk", flat=True)) == before | {
        law.cover_id,
        law.cover_small_id,
    }
    owner_client.post(URL, {"remove": "1"})
    assert set(Blob.objects.values_list("pk", flat=True)) == before


def test_only_the_owner_sets_a_cover(law: Vector, stranger_client: Client) -> None:
    assert stranger_client.post(URL, {"remove": "1"}).status_code == 404
