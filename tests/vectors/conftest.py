"""Storage of the tests of this folder: a fresh local folder or a fresh bucket."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings

from tests.vectors.s3 import s3_bucket, s3_endpoint
from vectors.storage.base import Storage
from vectors.storage.current import storage

__all__ = ["s3_bucket", "s3_endpoint"]


@pytest.fixture
def local_storage(tmp_path: Path) -> Iterator[Storage]:
    """The site's storage is an empty local folder, tmp_path/blobs."""
    with override_settings(ARMORY_BLOBS=tmp_path / "blobs", ARMORY_S3_BUCKET=""):
        yield storage()


@pytest.fixture
def s3_storage(s3_endpoint: str, s3_bucket: str) -> Iterator[Storage]:
    """The site's storage is an empty bucket."""
    with override_settings(ARMORY_S3_BUCKET=s3_bucket, ARMORY_S3_ENDPOINT=s3_endpoint):
        yield storage()


@pytest.fixture(params=["local", "s3"])
def any_storage(request: pytest.FixtureRequest) -> Storage:
    """The site's storage, once of each kind."""
    found: Storage = request.getfixturevalue(f"{request.param}_storage")
    return found
