"""SHA-256 of computed files, noted by whoever computes one from its first byte to its last.

A hash belongs to the ETag of a file, which stands for recipe, path and kernel, and so for bytes
that are always the same. Until it is known, nobody claims one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator

from django.db import DatabaseError

from merging.models import ComputedHash

log = logging.getLogger(__name__)


def known_hash(etag: str) -> str:
    """The SHA-256 of a computed file; nothing while nobody has hashed it."""
    row = ComputedHash.objects.filter(etag=etag).values_list("sha256", flat=True).first()
    return row or ""


def known_hashes(etags: Iterable[str]) -> dict[str, str]:
    """``known_hash`` of several at once."""
    rows = ComputedHash.objects.filter(etag__in=list(etags))
    return dict(rows.values_list("etag", "sha256"))


def hashed(pieces: Iterator[bytes], etag: str, size: int) -> Iterator[bytes]:
    """``pieces``, a whole file of ``size`` bytes, whose hash is noted once the last has passed."""
    digest, passed = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        passed += len(piece)
        if passed == size:  # before the last piece leaves: afterwards nobody may ask for more
            note(etag, digest.hexdigest(), size)
        yield piece


def note(etag: str, sha256: str, size: int) -> None:
    """Remember a hash. A download never breaks because that fails."""
    try:
        ComputedHash.objects.get_or_create(etag=etag, defaults={"sha256": sha256, "size": size})
    except DatabaseError:
        log.warning("the hash of a computed file was not noted", exc_info=True)
