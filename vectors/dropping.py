"""Giving back what nobody needs: discarded drafts, expired uploads, blobs without a reference.

Rows go first, in one transaction, and bytes after it. What a process killed in between leaves
lying is found by ``expire_uploads``.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from django.core.cache import cache
from django.db import models, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from vectors.announced import Conflict
from vectors.errors import _
from vectors.models import Blob, Sketch, Upload, Version
from vectors.storage.current import storage

log = logging.getLogger(__name__)

# A blob may be stored a while before something refers to it: a folder is imported file by file.
UNREFERENCED_FOR = timedelta(days=1)
LEFT_STAGED_FOR = timedelta(days=8)
TIDY_EVERY = 6 * 3600  # seconds; listing a bucket is not for every sweep


def discard(version: Version) -> None:
    """Delete a draft, its uploads and its bytes. Raises Conflict when it is published."""
    with transaction.atomic():
        found = Version.objects.select_for_update().filter(pk=version.pk).first()
        if found is None:
            return
        if not found.is_draft:
            raise Conflict(
                _("%(version)s is published and cannot be discarded; withdraw it instead."),
                version=str(found),
            )
        _drop_rows(found)
        found.delete()


def drop_bytes(version: Version) -> None:
    """Delete the uploads, files and bytes of a draft; the draft itself stays (it was refused)."""
    with transaction.atomic():
        _drop_rows(version)


def _drop_rows(version: Version) -> None:
    sketches = Sketch.objects.filter(version=version)
    shas = {*version.files.values_list("blob_id", flat=True)}
    shas.update(sketches.values_list("blob_id", flat=True))
    sketches.delete()
    version.files.all().delete()
    _drop_uploads(version.uploads.all(), shas)


def drop_uploads(uploads: models.QuerySet[Upload]) -> None:
    """Delete uploads that belong to no draft, and their bytes."""
    with transaction.atomic():
        _drop_uploads(uploads)


def _drop_uploads(uploads: models.QuerySet[Upload], shas: Iterable[str] = ()) -> int:
    rows = list(uploads.values_list("pk", "storage_handle", "blob_id"))
    staged = [(str(pk), handle) for pk, handle, _blob in rows]
    unused = {*shas, *(blob for _pk, _handle, blob in rows if blob)}
    uploads.delete()
    transaction.on_commit(partial(_drop_stored, staged, sorted(unused)), robust=True)
    return len(rows)


def _drop_stored(staged: Sequence[tuple[str, str]], shas: Iterable[str]) -> None:
    for upload_id, handle in staged:
        storage().abort(upload_id, handle)
    drop_unreferenced(shas)


def hold(sha256: str, size: int) -> Blob:
    """The blob's row, made where it is missing, and locked until the transaction ends.

    To be called in the transaction that refers to the blob, before its bytes are stored: until
    that ends nobody drops it as unreferenced, and who is dropping it right now is waited for.
    """
    held = Blob.objects.select_for_update()
    return held.get_or_create(sha256=sha256, defaults={"size": size})[0]


def drop_unreferenced(shas: Iterable[str]) -> int:
    """Delete those of the blobs that no row refers to any more. Returns how many."""
    dropped = 0
    for sha256 in shas:
        # The bytes go inside the transaction: whoever wants to refer to this blob right now waits
        # for the row's lock, finds the row gone, and stores the bytes anew.
        with transaction.atomic():
            blob = Blob.objects.select_for_update().filter(pk=sha256).first()
            if blob is None or any(
                model._base_manager.filter(**{field: sha256}).exists()
                for model, field in _references()
            ):
                continue
            blob.delete()
            storage().delete(sha256)
            dropped += 1
    return dropped


def _references() -> list[tuple[type[models.Model], str]]:
    """Every model and field, of this app or those above it, that points at a blob."""
    return [
        (relation.related_model, relation.field.name)
        for relation in Blob._meta.get_fields(include_hidden=True)
        if isinstance(relation, models.ManyToOneRel)
    ]


def expire_uploads() -> int:
    """Drop uploads that nobody went on with, and what killed processes left lying.

    A draft that was never complete goes as a whole. Called by a sweep; returns how many uploads.
    """
    now = timezone.now()
    expired = Upload.objects.filter(expires__lt=now)
    dropped = 0
    waiting = expired.filter(state=Upload.State.OPEN, version__state=Version.State.UPLOADING)
    for version in Version.objects.filter(pk__in=waiting.values("version")):
        dropped += version.uploads.count()
        discard(version)
    if expired.filter(version=None).exists():  # no write lock for nothing
        with transaction.atomic():
            dropped += _drop_uploads(expired.filter(version=None))
    if cache.add("vectors.dropping.tidied", now, TIDY_EVERY):
        _tidy()
    return dropped


def _tidy() -> None:
    now = timezone.now()
    forgotten = Blob.objects.filter(created__lt=now - UNREFERENCED_FOR)
    for model, field in _references():
        pointing: Any = model._base_manager.filter(**{field: OuterRef("pk")})
        forgotten = forgotten.exclude(Exists(pointing))
    blobs = drop_unreferenced(list(forgotten.values_list("pk", flat=True)))
    staged = storage().tidy(now - LEFT_STAGED_FOR, _has_row)
    if blobs or staged:
        log.info("tidied up %d blobs and %d staged uploads without a row", blobs, staged)


def _has_row(upload_id: str) -> bool:
    try:
        key = uuid.UUID(upload_id)
    except ValueError:  # not an upload's id: a copy that was cut off
        return False
    return Upload.objects.filter(pk=key).exists()
