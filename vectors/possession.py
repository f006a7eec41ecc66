"""Who has which bytes already. To know a hash is not to have what it names: otherwise anybody could
put a stranger's private file into a repository of their own and read it there."""

from __future__ import annotations

from typing import Any

from django.db.models import Q

from vectors import uploads
from vectors.access import may_read
from vectors.dropping import drop_uploads
from vectors.errors import Refusal
from vectors.models import Access, Blob, RepositoryFile, Upload, Version, Visibility


def possessed(user: Any, sha256: str) -> Blob | None:
    """The blob with this hash, if ``user`` sent it or may read a file that has it.

    What has arrived but was not hashed yet is hashed now; Refusal when it has another hash.
    """
    if not user.is_authenticated:
        return None
    return _sent(user, sha256) or _readable(user, sha256)


def _sent(user: Any, sha256: str) -> Blob | None:
    received = Q(state=Upload.State.RECEIVED, expected_sha256=sha256)
    stored = Q(state=Upload.State.STORED, blob_id=sha256)
    upload = Upload.objects.filter(received | stored, owner=user).order_by("-state").first()
    if upload is None:
        return None
    try:
        return uploads.seal(upload)
    except Refusal:  # damaged: the next try begins anew
        drop_uploads(Upload.objects.filter(pk=upload.pk, version=None))
        raise


def _readable(user: Any, sha256: str) -> Blob | None:
    files = RepositoryFile.objects.filter(blob_id=sha256).select_related("blob", "version__vector")
    # Every vector of a foundation may have the same tokenizer: only those are looked at that can
    # be the user's to read, and of these mostly one.
    everybody = Q(
        version__state=Version.State.PUBLISHED,
        version__vector__visibility=Visibility.PUBLIC,
        version__vector__access=Access.OPEN,
    )
    granted = Q(version__vector__in=user.grants.values("vector"))
    theirs = Q(version=None) | Q(version__owner=user) | everybody | granted
    for file in files.filter(theirs).order_by("pk").iterator(chunk_size=10):
        if file.version is None or may_read(user, file.version):
            return file.blob
    return None
