"""A few bytes that the site made itself (a card, a cover, a sketch), stored as a blob."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from vectors.dropping import hold
from vectors.models import Blob
from vectors.storage.current import storage


def store_bytes(content: bytes) -> Blob:
    """Store ``content`` as a blob, in the transaction that refers to it."""
    digest = hashlib.sha256(content).hexdigest()
    blob = hold(digest, len(content))
    with tempfile.NamedTemporaryFile() as handle:
        handle.write(content)
        handle.flush()
        storage().put(Path(handle.name), digest)
    return blob
