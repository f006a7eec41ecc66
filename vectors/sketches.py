"""Sketches of versions: kept at inspection, made later where missing, read from storage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from django.db import transaction
from django.db.models import Q, QuerySet

from vectors.dropping import drop_unreferenced
from vectors.files import open_files, open_weights
from vectors.inspection import inspect
from vectors.keeping import store_bytes
from vectors.models import Foundation, Sketch, Version
from vectors.storage.current import storage
from vectors.tensorfile import sketch_format
from vectors.tensorfile.coarse import CoarseLayout
from vectors.tensorfile.dtypes import DTYPES
from vectors.tensorfile.errors import Problem
from vectors.tensorfile.source import read_bytes

READERS = 8  # sketches read at once; storage may be far away
_KEPT = 64  # decoded sketches in memory, about 0.5 MB each


def keep_sketch(version: Version, sketch: sketch_format.Sketch) -> Sketch:
    """Store the sketch of ``version``, in place of an earlier one."""
    assert version.foundation is not None
    with transaction.atomic():
        before = Sketch.objects.filter(version=version).values_list("blob_id", flat=True).first()
        blob = store_bytes(sketch.to_bytes())
        row, _created = Sketch.objects.update_or_create(
            version=version,
            defaults={
                "blob": blob,
                "format": sketch_format.VERSION,
                "norm": sketch.norm,
                "entries": sketch.entries,
                "changed": sketch.entries_changed,
                "row": layout_of(version.foundation).row(sketch),
            },
        )
        if before and before != blob.pk:
            transaction.on_commit(lambda: drop_unreferenced([before]))
    return row


def make_sketch(version: Version) -> Sketch:
    """Make the sketch of a stored version anew, by the pass that inspects. Raises Problem."""
    assert version.foundation is not None
    files = open_files(version)
    base = open_weights(version.foundation)
    try:
        findings = inspect(files, version.foundation, base, lambda _at, _of: None)
    finally:
        base.close()
        for source in files.values():
            source.close()
    return keep_sketch(version, findings.sketch)


def unsketched() -> QuerySet[Version]:
    """Versions with content whose sketch is missing or of an older format."""
    return Version.objects.filter(
        Q(sketch=None) | ~Q(sketch__format=sketch_format.VERSION),
        state__in=[Version.State.READY, Version.State.PUBLISHED, Version.State.WITHDRAWN],
    ).order_by("pk")


def layout_of(foundation: Foundation) -> CoarseLayout:
    """Where the tensors of ``foundation`` are in the coarse rows of its vectors."""
    return CoarseLayout(
        (name, math.prod(shape))
        for name, (dtype, shape, _square) in foundation.manifest.items()
        if DTYPES[dtype].mergeable
    )


def read_sketch(blob: str) -> sketch_format.Sketch:
    """The sketch stored as ``blob`` (a SHA-256). Raises Problem."""
    return _read(blob)


def read_sketches(blobs: Iterable[str]) -> dict[str, sketch_format.Sketch]:
    """Several sketches by their blobs, read at the same time, without those that are gone."""
    wanted = list(dict.fromkeys(blobs))
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(_read_or_none, wanted)
        return {
            blob: sketch for blob, sketch in zip(wanted, found, strict=True) if sketch is not None
        }


def _read_or_none(blob: str) -> sketch_format.Sketch | None:
    try:
        return _read(blob)
    except Problem:
        return None


@lru_cache(maxsize=_KEPT)
def _read(blob: str) -> sketch_format.Sketch:
    source = storage().open(blob)
    try:
        return sketch_format.read_sketch(read_bytes(source))
    finally:
        source.close()
