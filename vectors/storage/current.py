"""The storage this site is set up with."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from django.conf import settings

from vectors.storage.base import Storage
from vectors.storage.local import LocalStorage


def storage() -> Storage:
    """S3 when ARMORY_S3_BUCKET is set, else the folder ARMORY_BLOBS. One object per process."""
    return _storage(
        settings.ARMORY_S3_BUCKET, settings.ARMORY_S3_ENDPOINT, Path(settings.ARMORY_BLOBS)
    )


@lru_cache(maxsize=4)
def _storage(bucket: str, endpoint: str, root: Path) -> Storage:
    if bucket:
        from vectors.storage.s3 import S3Storage  # boto3 takes a while to import

        return S3Storage(bucket, endpoint)
    return LocalStorage(root)
