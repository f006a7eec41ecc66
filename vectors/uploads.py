"""Files on their way in: begin(size) → part URLs → complete(parts) → sealed under their hash.

The shape is the one of Git LFS's multipart transfer, so a batch view can stand on it: an upload of
``open_uploads`` gives ``part_size`` (its ``chunk_size``), ``part_urls`` gives the numbered URLs,
which take a PUT without session or Authorization and answer with an ETag, and ``complete`` takes
what such a client sends at the end, (number, ETag) pairs. ``seal`` computes the SHA-256 (``oid``).

The database row flips last at each step, and each step can be repeated: a process killed between
any two lines leaves something that the next call, or the sweep, puts right.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.core import signing
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from vectors.announced import (
    Conflict,
    Forbidden,
    NewFile,
    NotFound,
    PartURL,
    Stream,
    TooLarge,
    check_files,
    check_room_for_a_draft,
)
from vectors.dropping import discard, drop_bytes, drop_unreferenced, expire_uploads, hold
from vectors.errors import Refusal, _
from vectors.models import Blob, Upload, UploadPart, Vector, Version
from vectors.storage.base import missing_upload, wrong_hash
from vectors.storage.current import storage
from vectors.tensorfile.errors import Problem
from vectors.tensorfile.forms import detect_form

__all__ = [
    "Conflict",
    "Forbidden",
    "NewFile",
    "NotFound",
    "PartURL",
    "TooLarge",
    "check_files",
    "check_signature",
    "complete",
    "discard",
    "drop_bytes",
    "drop_unreferenced",
    "expire_uploads",
    "open_uploads",
    "part_urls",
    "receive_part",
    "received_parts",
    "renew",
    "seal",
    "start_draft",
]

PART = 32 << 20
LARGE_PART = 64 << 20
LARGE_FILE = 20 << 30  # from here on LARGE_PART: S3 takes 10 000 parts at most
LIFETIME = timedelta(days=7)  # of an upload that nobody goes on with
URL_LIFETIME = timedelta(hours=12)

_READ = 1 << 20
_HASH_READ = 8 << 20
_signer = signing.TimestampSigner(salt="vectors.uploads.part")


# --- beginning -------------------------------------------------------------------------------


def start_draft(
    *, owner: Any, files: Sequence[tuple[Any, ...]], vector: Vector | None = None
) -> Version:
    """Open a draft with one upload per file: (path, size) or (path, size, sha256).

    ``vector`` makes it the next version of that vector. Raises Refusal before anything travels
    when the files cannot become a version.
    """
    if vector is not None and vector.owner_id != owner.pk:
        raise Forbidden(
            _("%(vector)s is not yours; only its owner adds versions."), vector=vector.repo_id
        )
    check_room_for_a_draft(owner)
    announced = check_files(files)
    try:
        detect_form(file.path for file in announced)
    except Problem as problem:
        raise Refusal(problem.template, **problem.params) from problem
    begun = _begin(owner, announced)
    try:
        with transaction.atomic():
            version = Version.objects.create(owner=owner, vector=vector)
            for upload in begun:
                upload.version = version
            Upload.objects.bulk_create(begun)
    except BaseException:
        _abort(begun)
        raise
    return version


def open_uploads(*, owner: Any, files: Sequence[tuple[Any, ...]]) -> list[Upload]:
    """Uploads that belong to no draft (yet); they expire unless something takes their blobs."""
    begun = _begin(owner, check_files(files))
    try:
        return Upload.objects.bulk_create(begun)
    except BaseException:
        _abort(begun)
        raise


def renew(version: Version) -> None:
    """Somebody goes on with this draft: its uploads live on."""
    version.uploads.update(expires=timezone.now() + LIFETIME)


def part_size_for(size: int) -> int:
    """Bytes of each part but the last, for a file of ``size`` bytes."""
    return LARGE_PART if size > LARGE_FILE else PART


def _begin(owner: Any, files: Sequence[NewFile]) -> list[Upload]:
    """Make room in storage for each file; the uploads are not saved yet."""
    total, free = sum(file.size for file in files), storage().free_bytes()
    if free is not None and total > free:
        raise TooLarge(
            _(
                "This upload has %(size).1f GB, and the disk of this site has room for %(free).1f "
                "GB. Its operator has to make room first."
            ),
            size=total / 1e9,
            free=free / 1e9,
        )
    begun: list[Upload] = []
    try:
        for file in files:
            upload = Upload(
                id=uuid.uuid4(),
                owner=owner,
                path=file.path,
                size=file.size,
                part_size=part_size_for(file.size),
                expected_sha256=file.sha256,
                expires=timezone.now() + LIFETIME,
            )
            upload.storage_handle = storage().begin(str(upload.pk), file.size)
            begun.append(upload)
    except BaseException:
        _abort(begun)
        raise
    return begun


# --- parts -----------------------------------------------------------------------------------


def part_urls(upload: Upload) -> list[PartURL]:
    """Where each part goes: S3 itself, or a path of this site that carries its own signature."""
    urls = []
    for number in range(1, upload.part_count + 1):
        length = upload.part_length(number)
        url = storage().part_url(str(upload.pk), upload.storage_handle, number, length)
        if url is None:
            path = reverse("upload_part", args=[upload.pk, number])
            url = f"{path}?signature={_sign(upload.pk, number)}"
        urls.append(PartURL(number, url, length))
    return urls


def check_signature(upload_id: uuid.UUID, number: int, signature: str) -> None:
    """Raise Forbidden unless ``signature`` was made for this part not too long ago."""
    try:
        _signer.unsign(f"{upload_id}/{number}:{signature}", max_age=URL_LIFETIME)
    except signing.SignatureExpired as error:
        raise Forbidden(_("This upload address has expired. Ask for a fresh one.")) from error
    except signing.BadSignature as error:
        raise Forbidden(_("This upload address is not valid. Ask for a fresh one.")) from error


def _sign(upload_id: uuid.UUID, number: int) -> str:
    value = f"{upload_id}/{number}"
    return _signer.sign(value).removeprefix(f"{value}:")


def received_parts(upload: Upload) -> list[int]:
    """Numbers of the parts that need not be sent again."""
    if upload.state != Upload.State.OPEN:
        return list(range(1, upload.part_count + 1))
    return sorted(_arrived(upload))


def receive_part(
    *, upload: Upload, number: int, stream: Stream, announced: int | None = None, sha256: str = ""
) -> UploadPart:
    """Read one part from ``stream`` straight into storage and note it.

    ``announced`` is the length that the sender named, ``sha256`` the hash of the part if it sent
    one. Sending a part again is harmless. Raises Refusal when length or hash differ; then the
    part counts as not received.
    """
    if not 1 <= number <= upload.part_count:
        raise Refusal(
            _("%(file)s has %(count)d parts; there is no part %(number)d."),
            file=upload.path,
            count=upload.part_count,
            number=number,
        )
    length = upload.part_length(number)
    if announced is not None and announced != length:
        raise _wrong_length(upload, number, announced)
    if upload.state != Upload.State.OPEN:
        known = upload.parts.filter(number=number).first()
        if known is None:
            raise Conflict(_("%(file)s is complete and takes no more parts."), file=upload.path)
        return known
    # Until all of it is written and checked the part is not here, whatever was here before.
    upload.parts.filter(number=number).delete()
    digest = hashlib.sha256()
    etag = storage().write_part(
        str(upload.pk),
        upload.storage_handle,
        number,
        (number - 1) * upload.part_size,
        _checked(stream, upload, number, digest, sha256.lower()),
    )
    part, _created = UploadPart.objects.update_or_create(
        upload=upload,
        number=number,
        defaults={"size": length, "etag": etag or digest.hexdigest()},
    )
    return part


def _checked(
    stream: Stream, upload: Upload, number: int, digest: Any, sha256: str
) -> Iterator[bytes]:
    missing = upload.part_length(number)
    while missing:
        piece = stream.read(min(_READ, missing))
        if not piece:
            raise _wrong_length(upload, number, upload.part_length(number) - missing)
        missing -= len(piece)
        digest.update(piece)
        yield piece
    if extra := stream.read(1):
        raise _wrong_length(upload, number, upload.part_length(number) + len(extra))
    if sha256 and digest.hexdigest() != sha256:
        raise Refusal(
            _(
                "Part %(number)d of %(file)s was damaged on the way: its SHA-256 differs. Send it "
                "again."
            ),
            number=number,
            file=upload.path,
        )


def _wrong_length(upload: Upload, number: int, got: int) -> Refusal:
    return Refusal(
        _("Part %(number)d of %(file)s must have %(wanted)d bytes; %(got)d came."),
        number=number,
        file=upload.path,
        wanted=upload.part_length(number),
        got=got,
    )


# --- completing and sealing ------------------------------------------------------------------


def complete(upload: Upload, parts: Iterable[tuple[int, str]] = ()) -> Upload:
    """Join the parts; the draft is ``received`` once this was its last open upload.

    ``parts`` are (number, ETag) as the client saw them. They only choose between copies of a part
    that storage has: what is missing there is asked of storage or of our own record, because a
    browser may not be allowed to see an ETag. Idempotent.
    """
    upload.refresh_from_db()
    if upload.state == Upload.State.OPEN:
        if not _is_joined(upload):
            chosen = _choose(upload, dict(parts))
            storage().complete(str(upload.pk), upload.storage_handle, chosen)
        Upload.objects.filter(pk=upload.pk, state=Upload.State.OPEN).update(
            state=Upload.State.RECEIVED
        )
        upload.refresh_from_db()
    if upload.version_id is not None:
        # After the upload's own update is committed: of two that end together, the later sees both.
        Version.objects.filter(pk=upload.version_id, state=Version.State.UPLOADING).exclude(
            uploads__state=Upload.State.OPEN
        ).update(state=Version.State.RECEIVED)
    return upload


def seal(upload: Upload, on_bytes: Callable[[int], object] | None = None) -> Blob:
    """Hash the received bytes and make them a blob. Idempotent, also after a kill.

    ``on_bytes`` hears of each piece, in bytes. Raises Refusal naming the file when its SHA-256 is
    not the one announced. A blob that has these bytes already is used, and the staged ones go.
    """
    upload.refresh_from_db()
    if upload.state == Upload.State.OPEN:
        raise Conflict(_("%(file)s has not arrived completely yet."), file=upload.path)
    if upload.state == Upload.State.STORED and upload.blob is not None:
        return upload.blob
    if upload.blob is None or storage().size(upload.blob.sha256) != upload.size:
        sha256 = _hash(upload, on_bytes or (lambda _count: None))
        if upload.expected_sha256 and sha256 != upload.expected_sha256:
            raise wrong_hash(upload.path)
        # The reference comes before the bytes are moved: from here on nobody drops this blob as
        # unreferenced.
        with transaction.atomic():
            blob = hold(sha256, upload.size)
            _update(upload, blob=blob)
        storage().promote(str(upload.pk), sha256)
    else:  # an earlier call moved the bytes and died before it could say so
        blob = upload.blob
        storage().abort(str(upload.pk), upload.storage_handle)
    _update(upload, state=Upload.State.STORED)
    return blob


def _update(upload: Upload, **fields: Any) -> None:
    if not Upload.objects.filter(pk=upload.pk).update(**fields):
        raise missing_upload()  # discarded while we were at it
    for name, value in fields.items():
        setattr(upload, name, value)


def _hash(upload: Upload, on_bytes: Callable[[int], object]) -> str:
    source = storage().open_staged(str(upload.pk))
    digest = hashlib.sha256()
    buffer = bytearray(min(_HASH_READ, source.size))
    try:
        for offset in range(0, source.size, _HASH_READ):
            piece = memoryview(buffer)[: min(_HASH_READ, source.size - offset)]
            source.read_into(offset, piece)
            digest.update(piece)
            on_bytes(len(piece))
    finally:
        source.close()
    return digest.hexdigest()


def _is_joined(upload: Upload) -> bool:
    """Whether an earlier call joined the parts and died before it could say so."""
    try:
        source = storage().open_staged(str(upload.pk))
    except Refusal:
        return False
    source.close()
    return source.size == upload.size


def _arrived(upload: Upload) -> dict[int, list[str]]:
    """ETags by number of the parts that are there in full; a part sent twice may have two."""
    staged = storage().staged_parts(str(upload.pk), upload.storage_handle)
    recorded = upload.parts.values_list("number", "size", "etag")
    rows: Iterable[tuple[int, int, str]] = recorded if staged is None else staged
    arrived: dict[int, list[str]] = {}
    for number, size, etag in rows:
        if number <= upload.part_count and size == upload.part_length(number):
            arrived.setdefault(number, []).append(etag)
    return arrived


def _choose(upload: Upload, told: dict[int, str]) -> list[tuple[int, str]]:
    """One ETag for each part, the client's own where it names a copy that is there."""
    arrived = _arrived(upload)
    missing = [number for number in range(1, upload.part_count + 1) if number not in arrived]
    if missing:
        raise Conflict(
            _(
                "%(missing)d of %(count)d parts of %(file)s have not arrived, part %(number)d "
                "first. Send them, then finish."
            ),
            missing=len(missing),
            count=upload.part_count,
            file=upload.path,
            number=missing[0],
        )
    return [
        (number, told[number] if told.get(number) in etags else etags[-1])
        for number, etags in sorted(arrived.items())
    ]


def _abort(begun: Iterable[Upload]) -> None:
    for upload in begun:
        storage().abort(str(upload.pk), upload.storage_handle)
